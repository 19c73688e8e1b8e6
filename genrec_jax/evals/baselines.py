"""Model-free baselines: what the table's numbers are measured against.

`real_next_item` is the aim; `vq_ceiling` is the same image, encoded and decoded
by the model's image tokenizer: the most that an image made of codes can be;
`random_item` is chance; `copy_last` is what a model gets for repeating instead
of generating.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from genrec_jax.core.types import Batch
from genrec_jax.data import examples
from genrec_jax.evals import held_out, scores
from genrec_jax.runtime.distributed import to_host

NAMES = ("real_next_item", "vq_ceiling", "random_item", "copy_last")


def real_next_item(batch: Batch) -> np.ndarray:
  """Returns the item each user really went on to: uint8 [P, h, w, 3]."""
  return np.asarray(batch.future[:, 0])


def last_index(history_mask: np.ndarray) -> np.ndarray:
  """Returns the position of the newest real item: bool [P, N] -> int [P].

  0 for a user with no history at all.
  """
  size = history_mask.shape[-1]
  newest = size - 1 - np.argmax(history_mask[:, ::-1], axis=-1)
  return np.where(history_mask.any(-1), newest, 0)


def copy_last(batch: Batch) -> np.ndarray:
  """Returns each user's newest history image: uint8 [P, h, w, 3]."""
  index = last_index(np.asarray(batch.history_mask))
  return np.asarray(batch.history)[np.arange(len(index)), index]


def random_items(
  catalogue: Sequence[np.ndarray], num_users: int, num_samples: int, seed: int
) -> np.ndarray:
  """Draws items uniformly from a catalogue: uint8 [P, G, h, w, 3].

  Args:
    catalogue: every item's picture, uint8 [h, w, 3].
    num_users: P.
    num_samples: G, with replacement.
    seed: the same seed draws the same items.
  """
  rng = np.random.default_rng(seed)
  index = rng.integers(len(catalogue), size=(num_users, num_samples))
  return np.stack([np.stack([catalogue[int(i)] for i in row]) for row in index])


class Catalogue(Sequence):
  """The pictures of a prepared data set, decoded when indexed."""

  def __init__(
    self,
    items: Sequence[Mapping[str, Any]],
    pixels: Callable[[Image.Image], np.ndarray],
  ):
    """Takes `Dataset.items` and `Processor.crop`."""
    self._items, self._pixels = items, pixels

  def __len__(self) -> int:
    """Returns the number of items."""
    return len(self._items)

  def __getitem__(self, index: int) -> np.ndarray:
    """Returns one picture, uint8 [h, w, 3]."""
    return self._pixels(examples.decode_image(self._items[index]))


def score_all(
  embed_images: Callable[[np.ndarray], Any],
  windows: Sequence[held_out.HeldOutBatch],
  catalogue: Sequence[np.ndarray],
  *,
  num_samples: int,
  copy_threshold: float,
  seed: int,
  reconstruct: Callable[[np.ndarray], Any] | None = None,
  done: Callable[[int], None] = lambda users: None,
) -> dict[str, dict[str, np.ndarray]]:
  """Scores every baseline.

  Args:
    embed_images: uint8 [P, G, h, w, 3] -> [P, G, E], compiled.
    windows: see `windows.prepare`.
    catalogue: every item's picture, uint8 [h, w, 3].
    num_samples: G, random items per user; the shape it is compiled for.
    copy_threshold: see `scores.clip_scores`.
    seed: of the random items.
    reconstruct: uint8 [P, h, w, 3] -> the same, encoded and decoded by the
      model's image tokenizer; None leaves `vq_ceiling` out.
    done: called with the number of users of each window, once it is scored.

  Returns:
    {baseline: {metric: [U] float64}}.
  """
  found = {name: [] for name in NAMES if reconstruct or name != "vq_ceiling"}
  single = {name: [] for name in found if name != "random_item"}

  def embed(images):
    return to_host(embed_images(images)).astype(np.float32)

  for index, window in enumerate(windows):
    rows = np.arange(len(window.batch.history_mask))
    last = last_index(window.targets.history_mask)
    known = window.targets.history_mask.any(-1)[: window.count]
    pictures = {
      "real_next_item": (
        window.targets.future[:, 0],
        real_next_item(window.batch),
      ),
      "copy_last": (
        window.targets.history[rows, last],
        copy_last(window.batch),
      ),
    }
    if reconstruct:
      decoded = to_host(reconstruct(real_next_item(window.batch)))
      # Repeated to the shape that `embed_images` is compiled for.
      repeated = np.repeat(decoded[:, None], num_samples, axis=1)
      pictures["vq_ceiling"] = (embed(repeated)[:, 0], decoded)
    for name, (embeds, images) in pictures.items():
      shown = held_out.read_attributes(window, images[:, None])
      result = held_out.score(window, embeds[:, None], shown, copy_threshold)
      if name == "copy_last":  # nothing to copy where there is no history
        result = {k: np.where(known, v, np.nan) for k, v in result.items()}
      found[name].append(result)
      single[name].append(embeds[: window.count])
    images = random_items(catalogue, len(rows), num_samples, seed=seed + index)
    shown = held_out.read_attributes(window, images)
    found["random_item"].append(
      held_out.score(window, embed(images), shown, copy_threshold)
    )
    done(window.count)
  result = {name: held_out.concatenate(parts) for name, parts in found.items()}
  for name, parts in single.items():
    result[name]["diversity"] = scores.spread(np.concatenate(parts))
  return result
