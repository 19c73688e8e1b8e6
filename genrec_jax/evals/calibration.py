"""Calibration of the copy threshold: whether it separates copies, measured.

The best copy of an item that a model can generate is the item encoded to codes
and decoded again: a threshold above its cosine with the item calls no image a
copy. Two different items are no copies of each other: a threshold below their
cosine punishes what is only alike.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from genrec_jax.core.types import PyTree
from genrec_jax.evals.catalogue import Catalogue
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.evals.panel import on_host
from genrec_jax.hf.encoders import CLIP_NAME
from genrec_jax.runtime import distributed

ITEMS = 256  # of the catalogue; their pairs are 32,640
# Shares of the cosines that a threshold may have on its wrong side.
LOST, FALSE = 0.05, 0.01


class Cosines(NamedTuple):
  """CLIP cosines that a copy threshold should lie between."""

  own: np.ndarray  # [K], an item and its own reconstruction
  pairs: np.ndarray  # [K (K - 1) / 2], two different items


def calibrated(evaluator: Evaluator, params: PyTree) -> Evaluator:
  """Returns an evaluator whose judges know copies, and prints the cosines.

  What is CLIP's comes from the config, and is held against its cosines; what is
  a judge's is measured: 95 % of exact copies are above it. All processes of a
  run enter it; the first prints. A few hundred images are embedded, in the
  shapes that evaluation is compiled for.

  Args:
    evaluator: its catalogue, panel and seed.
    params: of the generator; only its image tokenizer is used.
  """
  if evaluator.reconstruct is None:  # no image tokenizer to measure with
    return evaluator
  # In the shapes of evaluation: compiles nothing of its own.
  found = cosines(
    evaluator.catalogue,
    functools.partial(evaluator.reconstruct, params),
    evaluator.panel.embed_images,
    batch_size=evaluator.test[0].size,
    num_samples=evaluator.num_samples,
    seed=evaluator.seed,
  )
  thresholds = dict(evaluator.copy_thresholds)
  for line in describe(found[CLIP_NAME], thresholds[CLIP_NAME]):
    distributed.say(line)
  for name in evaluator.panel.judges:
    thresholds[name] = float(np.quantile(found[name].own, LOST))
    distributed.say(describe_judge(found[name], thresholds[name], name))
  return dataclasses.replace(evaluator, copy_thresholds=thresholds)


def cosines(
  catalogue: Catalogue,
  reconstruct: Callable[[np.ndarray], Any],
  embed_images: Callable[[np.ndarray], Mapping[str, Any]],
  *,
  batch_size: int,
  num_samples: int,
  seed: int,
) -> dict[str, Cosines]:
  """Measures the cosines of up to `ITEMS` items chosen at random, by encoder.

  Args:
    catalogue: every item's image, uint8 [h, w, 3].
    reconstruct: uint8 [P, h, w, 3] -> the same, encoded and decoded.
    embed_images: uint8 [P, G, h, w, 3] -> unit vectors [P, G, E] by encoder.
    batch_size: P, of both.
    num_samples: G, of the second.
    seed: of the choice.
  """
  count = min(ITEMS, len(catalogue))
  chosen = np.random.default_rng(seed).permutation(len(catalogue))[:count]
  size = batch_size * num_samples
  items: dict[str, list[np.ndarray]] = {}  # [P G, E] each, by encoder
  decoded: dict[str, list[np.ndarray]] = {}
  for start in range(0, count, size):
    # The last batch is filled up; `count` leaves the repeated items out again.
    indices = np.resize(chosen[start : start + size], size)
    images = np.stack([catalogue[int(i)] for i in indices])
    images = images.reshape(batch_size, num_samples, *images.shape[1:])
    columns = [
      distributed.to_host(reconstruct(images[:, g])) for g in range(num_samples)
    ]  # G x [P, h, w, 3]
    for kept, shown in ((items, images), (decoded, np.stack(columns, 1))):
      for name, embeds in on_host(embed_images(shown)).items():
        kept.setdefault(name, []).append(embeds.reshape(size, -1))
  above = np.triu_indices(count, 1)  # each pair once
  found = {}
  for name in items:
    # [K, E] both
    a, b = (np.concatenate(x[name])[:count] for x in (items, decoded))
    found[name] = Cosines(own=np.sum(a * b, -1), pairs=(a @ a.T)[above])
  return found


def describe(found: Cosines, threshold: float) -> list[str]:
  """Returns two lines of quantiles, and a third if the threshold is not good.

  Args:
    found: see `cosines`.
    threshold: from which cosine with a history image an image is a copy.
  """
  lines = [
    f"copy threshold {threshold}: {len(found.own)} items have with their own VQ"
    f" reconstruction a CLIP cosine of {_quantiles(found.own, 0.01, LOST, 0.5)}"
  ]
  if not len(found.pairs):  # a catalogue of one item
    return lines
  lines.append(
    f"copy threshold {threshold}: pairs of different items have a CLIP cosine"
    f" of {_quantiles(found.pairs, 0.5, 1 - FALSE, 0.999)}"
  )
  low = np.quantile(found.own, LOST)
  high = np.quantile(found.pairs, 1 - FALSE)
  lost = np.mean(found.own < threshold)
  false = np.mean(found.pairs >= threshold)
  wrong = []
  if threshold > low:
    wrong.append(f"{lost:.1%} of exact copies would be missed")
  if threshold < high:
    wrong.append(f"{false:.1%} of pairs of different items would be copies")
  if wrong:
    advice = (
      f"take one between {high:.4f} and {low:.4f}"
      if high < low
      else "no threshold separates them with this CLIP and this VQ tokenizer"
    )
    lines.append(
      f"warning: the copy threshold {threshold} does not separate copies from"
      f" other images: {' and '.join(wrong)}; {advice}"
    )
  return lines


def describe_judge(found: Cosines, threshold: float, name: str) -> str:
  """Returns a line on a judge's threshold, a warning if it is not good.

  Args:
    found: its cosines.
    threshold: from which cosine with a history image an image is a copy.
    name: of the judge.
  """
  line = (
    f"copy threshold of {name}: {threshold:.4f}, which {1 - LOST:.0%} of"
    f" {len(found.own)} items have with their own VQ reconstruction"
  )
  if not len(found.pairs):
    return line
  false = float(np.mean(found.pairs >= threshold))
  line += f", and {false:.2%} of pairs of different items"
  if false > FALSE:
    return f"warning: {line}: this judge cannot tell copies from other images"
  return line


def _quantiles(values: np.ndarray, *shares: float) -> str:
  """Returns '0.9123 (5%), 0.9876 (50%)'."""
  return ", ".join(
    f"{value:.4f} ({100 * share:.4g}%)"
    for value, share in zip(np.quantile(values, shares), shares, strict=True)
  )
