"""Held-out users in memory: batches, their targets and known truth.

All batches have P rows, so that every function compiled for one serves all: a
shorter one is filled up, and `count` says how many of its rows are users.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from genrec_jax.core.types import Batch
from genrec_jax.data import world
from genrec_jax.runtime.distributed import to_host
from genrec_jax.targets import Targets


class Truth(NamedTuple):
  """What is known of P users in the synthetic world, in attribute numbers."""

  wants: np.ndarray  # [P, 3] int, what the user wants at the target
  history: np.ndarray  # [P, N, 5] int, attributes of the history images
  future: np.ndarray  # [P, F, 5] int, of the real next ones


class Rows(NamedTuple):
  """Items of users, by their numbers in the catalogue; the fill has none."""

  history: tuple[np.ndarray, ...]  # [count] of [n] int, shown, oldest first
  seen: tuple[np.ndarray, ...]  # [count] of [m] int, all before the target
  target: np.ndarray  # [count] int, the real next item


@dataclasses.dataclass(frozen=True)
class HeldOutBatch:
  """P held-out users, one evaluation window each; all arrays are numpy."""

  batch: Batch
  count: int  # rows that are users, the first ones; the others repeat the first
  names: tuple[str, ...]  # [count]
  targets: Mapping[str, Targets]  # embeddings of the batch, by encoder
  truth: Truth | None  # None where it is not known
  titles: tuple[str, ...] = ()  # [count], of the real next items, if known
  history_titles: tuple[Sequence[str], ...] = ()  # oldest first, if known
  rows: Rows | None = None  # None where the catalogue is not known

  @property
  def size(self) -> int:
    """P: the number of rows, users or not."""
    return len(self.batch.history_mask)


class Users(NamedTuple):
  """What the samples of U users are compared with; all arrays are numpy."""

  targets: Mapping[str, Targets]  # encoder -> embeddings, [U, ...] each
  truth: Truth | None  # [U, ...]; None where it is not known
  rows: Rows | None  # of U users; None where the catalogue is not known


class Panel(Protocol):
  """The part of `panel.Panel` that targets are embedded by."""

  def embed_targets(self, batch: Batch) -> Mapping[str, Targets]:
    """Returns the embeddings of a batch by encoder."""

  def embed_titles(self, titles: Sequence[str]) -> Mapping[str, jax.Array]:
    """Returns embeddings [P, E] of titles by the judges that read."""


def prepare(
  batches: Iterable[Any], panel: Panel, batch_size: int
) -> list[HeldOutBatch]:
  """Reads evaluation batches into memory and embeds their targets once.

  Args:
    batches: of `eval_batches.eval_batches`.
    panel: the encoders.
    batch_size: P; no batch has more rows.
  """
  fill_up = functools.partial(fill, size=batch_size)
  prepared: list[HeldOutBatch] = []
  for batch, info in batches:
    count = len(batch.history_mask)
    batch = jax.tree.map(lambda values: fill_up(np.asarray(values)), batch)
    truth = None
    if "wants" in info:
      truth = Truth(
        wants=fill_up(np.asarray(info["wants"])),
        history=_read(batch.history),
        future=_read(batch.future),
      )
    prepared.append(
      HeldOutBatch(
        batch=batch,
        count=count,
        names=tuple(str(name) for name in info["user"]),
        targets=_embed(panel, batch, info),
        truth=truth,
        titles=tuple(info.get("titles", ())),
        history_titles=tuple(info.get("history_titles", ())),
        rows=_rows(info) if "target_row" in info else None,
      )
    )
  return prepared


def _embed(
  panel: Panel, batch: Batch, info: Mapping[str, Any]
) -> dict[str, Targets]:
  """Returns the targets of a batch by encoder, titles included."""
  targets = dict(panel.embed_targets(batch))
  if "titles" in info:
    # Each judge has its own tokenizer; CLIP's tokens are in the batch.
    titles = fill(np.asarray(info["titles"], object), len(batch.history_mask))
    for name, text in panel.embed_titles(list(titles)).items():
      targets[name] = dataclasses.replace(targets[name], text=text)
  return jax.tree.map(to_host, targets)


def join(batches: Sequence[HeldOutBatch]) -> Users:
  """Returns all users of some batches, without what fills these up."""
  parts = [
    jax.tree.map(
      lambda x, count=held.count: np.asarray(x)[:count],
      (dict(held.targets), held.truth),
    )
    for held in batches
  ]
  targets, truth = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  rows = [
    Rows(
      held.rows.history[: held.count],
      held.rows.seen[: held.count],
      held.rows.target[: held.count],
    )
    for held in batches
    if held.rows is not None
  ]
  return Users(
    targets=targets,
    truth=truth,
    rows=Rows(
      history=tuple(itertools.chain(*(part.history for part in rows))),
      seen=tuple(itertools.chain(*(part.seen for part in rows))),
      target=np.concatenate([part.target for part in rows]),
    )
    if len(rows) == len(batches)
    else None,
  )


def _rows(info: Mapping[str, Any]) -> Rows:
  return Rows(
    history=tuple(info["history_rows"]),
    seen=tuple(info["seen_rows"]),
    target=np.asarray(info["target_row"], np.int64),
  )


def fill(values: np.ndarray, size: int) -> np.ndarray:
  """Returns `size` rows: the values, then the first row as often as needed."""
  missing = size - len(values)
  return np.concatenate([values, np.repeat(values[:1], missing, axis=0)])


def read_attributes(
  held: HeldOutBatch, images: np.ndarray
) -> np.ndarray | None:
  """Returns the attributes that images uint8 [P, G, h, w, 3] show, [P, G, 5].

  None where the truth is not known: only the synthetic world can be read.
  """
  return None if held.truth is None else _read(images)


def _read(images: np.ndarray) -> np.ndarray:
  """Returns the attributes [P, M, 5] int of images uint8 [P, M, h, w, 3]."""
  attributes = world.read(images.reshape(-1, *images.shape[2:]))
  return attributes.reshape(*images.shape[:2], -1)
