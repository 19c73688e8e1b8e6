"""Held-out users as evaluation holds them: batches, targets, known truth.

All batches have P rows, so that every function compiled for one serves all: a
shorter one is filled up, and `count` says how many of its rows are users.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from genrec_jax import rewards
from genrec_jax.core.types import Batch
from genrec_jax.data import world
from genrec_jax.evals import scores
from genrec_jax.runtime.distributed import to_host

_EMPTY = np.uint8(236)  # light grey: there is no item


class HeldOutBatch(NamedTuple):
  """P held-out users, one evaluation window each; all arrays are numpy."""

  batch: Batch
  count: int  # rows that are users, the first ones
  names: tuple[str, ...]  # [count]
  targets: rewards.Targets  # CLIP embeddings of the batch
  wants: np.ndarray | None  # [P, 3] int, what the user wants; None: unknown
  attributes: np.ndarray | None  # [P, N, 5] int, of the history; or None
  titles: tuple[str, ...] = ()  # [count], of the real next items, if known
  history_titles: tuple[Sequence[str], ...] = ()  # oldest first, if known


def prepare(
  batches: Iterable[Any],
  embed_targets: Callable[[Batch], rewards.Targets],
  batch_size: int,
) -> list[HeldOutBatch]:
  """Reads evaluation batches into memory and embeds their targets once.

  Args:
    batches: of `stream.eval_batches`.
    embed_targets: Batch -> Targets, compiled by the caller.
    batch_size: P; no batch has more rows.
  """
  fill = functools.partial(_fill, size=batch_size)
  windows: list[HeldOutBatch] = []
  for batch, info in batches:
    count = len(batch.history_mask)
    batch = jax.tree.map(lambda values: fill(np.asarray(values)), batch)
    wants = info.get("wants")
    attributes = None
    if wants is not None:
      wants = fill(np.asarray(wants))
      history = batch.history
      attributes = world.read(history.reshape(-1, *history.shape[2:]))
      attributes = attributes.reshape(*history.shape[:2], -1)
    windows.append(
      HeldOutBatch(
        batch=batch,
        count=count,
        names=tuple(str(name) for name in info["user"]),
        targets=jax.tree.map(to_host, embed_targets(batch)),
        wants=wants,
        attributes=attributes,
        titles=tuple(info.get("titles", ())),
        history_titles=tuple(info.get("history_titles", ())),
      )
    )
  return windows


def derangement(users: int, seed: int) -> np.ndarray:
  """Returns another user for each of U users: int [U].

  A random cycle through all users: nobody keeps their own, everybody is taken
  once.

  Raises:
    ValueError: fewer than two users.
  """
  if users < 2:
    raise ValueError(f"{users} users: shuffling needs two or more")
  order = np.random.default_rng(seed).permutation(users)
  source = np.empty_like(order)
  source[order] = np.roll(order, 1)
  return source


def read_attributes(
  window: HeldOutBatch, images: np.ndarray
) -> np.ndarray | None:
  """Returns what images uint8 [P, G, h, w, 3] show, [P, G, 5] int.

  None where the truth is not known.
  """
  if window.wants is None:
    return None
  shown = world.read(images.reshape(-1, *images.shape[2:]))
  return shown.reshape(*images.shape[:2], -1)


def score(
  window: HeldOutBatch,
  embeds: np.ndarray,
  shown: np.ndarray | None,
  copy_threshold: float,
) -> dict[str, np.ndarray]:
  """Scores the samples of one window's users.

  Args:
    window: P users.
    embeds: [P, G, E] CLIP embeddings of the samples.
    shown: [P, G, 5] of `read_attributes`.
    copy_threshold: see `scores.clip_scores`.

  Returns:
    {metric: [count] float64}; what needs the truth only where it is known.
  """
  targets = window.targets
  result = scores.clip_scores(
    embeds,
    targets.history,
    targets.history_mask,
    targets.future,
    targets.future_mask,
    targets.text,
    copy_threshold,
  )
  if window.wants is not None:
    result |= scores.truth_scores(
      shown, window.attributes, targets.history_mask, window.wants
    )
  return {name: values[: window.count] for name, values in result.items()}


def score_others(
  windows: Sequence[HeldOutBatch],
  embeds: np.ndarray,
  shown: np.ndarray | None,
  source: np.ndarray,
  copy_threshold: float,
) -> dict[str, np.ndarray]:
  """Scores every user by the samples that were generated for another.

  A model that makes nothing of a history does as well by these.

  Args:
    windows: U held-out users.
    embeds: [U, G, E] of every user's own samples.
    shown: [U, G, 5] of `read_attributes`, or None.
    source: [U] int, whose samples each user is scored by; see `derangement`.
    copy_threshold: see `scores.clip_scores`.

  Returns:
    {metric: [U] float64}.
  """
  parts, start = [], 0
  for window in windows:
    rows = source[start : start + window.count]
    start += window.count
    rows = _fill(rows, len(window.batch.history_mask))
    taken = None if shown is None else shown[rows]
    parts.append(score(window, embeds[rows], taken, copy_threshold))
  return concatenate(parts)


def concatenate(
  parts: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """Joins the scores of windows to scores of all their users."""
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }


def grid(
  windows: Sequence[HeldOutBatch], samples: np.ndarray, gap: int = 2
) -> np.ndarray:
  """Lays out users as rows: history | samples | real next item.

  Args:
    windows: held-out users.
    samples: [U, G, h, w, 3] uint8 of the first U users.
    gap: pixels between pictures; three times as much between the parts.

  Returns:
    uint8 [H, W, 3]; places of a history that have no item are light grey.
  """
  history = np.concatenate(
    [
      np.where(
        w.batch.history_mask[: w.count, :, None, None, None],
        w.batch.history[: w.count],
        _EMPTY,
      )
      for w in windows
    ]
  )
  future = np.concatenate([w.batch.future[: w.count] for w in windows])
  parts = [history[: len(samples)], samples, future[: len(samples), :1]]
  lines = []
  for row in range(len(samples)):
    tiles = []
    for part in parts:
      for picture in part[row]:
        tiles += [picture, _blank(picture.shape[0], gap)]
      tiles.append(_blank(picture.shape[0], 2 * gap))
    line = np.concatenate(tiles[:-2], axis=1)
    lines += [line, _blank(gap, line.shape[1])]
  return np.concatenate(lines[:-1], axis=0)


def _fill(values: np.ndarray, size: int) -> np.ndarray:
  """Repeats the first row until there are `size` rows."""
  missing = size - len(values)
  return np.concatenate([values, np.repeat(values[:1], missing, axis=0)])


def _blank(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), 255, np.uint8)
