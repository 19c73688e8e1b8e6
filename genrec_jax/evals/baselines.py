"""Model-free baselines: what the table's numbers are measured against.

`real_next_item` is the aim; `vq_ceiling` is the same image, encoded and decoded
by the model's image tokenizer: the most that an image made of codes can be;
`random_item` is chance; `copy_last` is what a model gets for repeating instead
of generating.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec_jax import rows
from genrec_jax.core.types import Batch
from genrec_jax.evals import held_out, scores
from genrec_jax.evals.catalogue import Catalogue
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.evals.judge import Judge
from genrec_jax.runtime.distributed import to_host


def real_next_item(batch: Batch) -> np.ndarray:
  """Returns the item each user really went on to: uint8 [P, h, w, 3]."""
  return np.asarray(batch.future[:, 0])


def last_index(history_mask: np.ndarray) -> np.ndarray:
  """Returns the position of the newest real item: bool [P, N] -> int [P].

  0 for a user with no history at all.
  """
  size = history_mask.shape[-1]
  # argmax finds the first True; of the reversed mask it is the last item.
  newest = size - 1 - np.argmax(history_mask[:, ::-1], axis=-1)
  return np.where(history_mask.any(-1), newest, 0)


def copy_last(batch: Batch) -> np.ndarray:
  """Returns each user's newest history image: uint8 [P, h, w, 3]."""
  index = last_index(np.asarray(batch.history_mask))  # [P]
  return np.asarray(batch.history)[np.arange(len(index)), index]


def random_items(
  catalogue: Catalogue, num_users: int, num_samples: int, seed: int
) -> np.ndarray:
  """Returns items sampled uniformly from a catalogue: uint8 [P, G, h, w, 3].

  Args:
    catalogue: every item's image, uint8 [h, w, 3].
    num_users: P.
    num_samples: G, with replacement.
    seed: the same seed gives the same items.
  """
  rng = np.random.default_rng(seed)
  index = rng.integers(len(catalogue), size=(num_users, num_samples))  # [P, G]
  return np.stack([np.stack([catalogue[int(i)] for i in row]) for row in index])


def score_all(
  judge: Judge,
  batches: Sequence[HeldOutBatch],
  catalogue: Catalogue,
  *,
  num_samples: int,
  seed: int,
  reconstruct: Callable[[np.ndarray], Any] | None = None,
  done: Callable[[int], None] = lambda users: None,
) -> dict[str, dict[str, np.ndarray]]:
  """Returns the scores of every baseline: {baseline: {metric: [U] float64}}.

  Args:
    judge: scores as it does for models.
    batches: U held-out users.
    catalogue: every item's image, uint8 [h, w, 3].
    num_samples: G, random items per user; the shape that `judge` is compiled
      for.
    seed: of the random items.
    reconstruct: uint8 [P, h, w, 3] -> the same, encoded and decoded by the
      model's image tokenizer; None leaves `vq_ceiling` out.
    done: called with the number of users of each batch, once it is scored.
  """
  names = [
    name for name in rows.BASELINES if reconstruct or name != "vq_ceiling"
  ]
  parts: dict[str, list] = {name: [] for name in names}  # scores by batch
  # Embeddings [count, E] of the baselines that have one image per user.
  single: dict[str, list] = {n: [] for n in names if n != "random_item"}
  for index, held in enumerate(batches):
    shown = _single_images(judge, held, num_samples, reconstruct)
    for name, (embeds, images) in shown.items():
      # One image is scored as a sample of G = 1.
      attributes = held_out.read_attributes(held, images[:, None])
      result = judge.score(held, embeds[:, None], attributes)
      if name == "copy_last":  # nothing to copy where there is no history
        known = np.asarray(held.targets.history_mask)[: held.count].any(-1)
        result = {k: np.where(known, v, np.nan) for k, v in result.items()}
      parts[name].append(result)
      single[name].append(embeds[: held.count])
    # By the batch's number: not the same items for every batch.
    images = random_items(catalogue, held.size, num_samples, seed=seed + index)
    attributes = held_out.read_attributes(held, images)
    embeds = _embed(judge, images)
    parts["random_item"].append(judge.score(held, embeds, attributes))
    done(held.count)
  found = {name: held_out.concatenate(part) for name, part in parts.items()}
  # One image has no other of the same user to differ from.
  for name, pieces in single.items():
    found[name]["diversity"] = scores.spread(np.concatenate(pieces))
  return found


def _single_images(
  judge: Judge,
  held: HeldOutBatch,
  num_samples: int,
  reconstruct: Callable[[np.ndarray], Any] | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns the baselines with one image per user.

  {name: (embeddings [P, E], images uint8 [P, h, w, 3])}; those of items of the
  batch are embedded already, among its targets.
  """
  history, future = (  # [P, N, E], [P, F, E]
    np.asarray(x) for x in (held.targets.history, held.targets.future)
  )
  last = last_index(np.asarray(held.targets.history_mask))  # [P]
  real = real_next_item(held.batch)
  found = {
    "real_next_item": (future[:, 0], real),
    "copy_last": (history[np.arange(held.size), last], copy_last(held.batch)),
  }
  if reconstruct:
    decoded = to_host(reconstruct(real))  # uint8 [P, h, w, 3]
    # Repeated to [P, G, ...], the shape that the judge is compiled for.
    repeated = np.repeat(decoded[:, None], num_samples, axis=1)
    found["vq_ceiling"] = (_embed(judge, repeated)[:, 0], decoded)
  return found


def _embed(judge: Judge, images: np.ndarray) -> np.ndarray:
  """Returns embeddings [P, G, E] of images uint8 [P, G, h, w, 3]."""
  return to_host(judge.embed_images(images)).astype(np.float32)
