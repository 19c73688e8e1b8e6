"""Every item's image, decoded when indexed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from genrec_jax.data import records, world
from genrec_jax.evals.panel import Panel, on_host
from genrec_jax.evals.scoring import Items


class Catalogue(Protocol):
  """Items' images, uint8 [h, w, 3], by number."""

  def __len__(self) -> int:
    """Returns the number of items."""

  def __getitem__(self, index: int, /) -> np.ndarray:
    """Returns one image."""


class DatasetCatalogue:
  """The catalogue of a prepared data set, whose images stay encoded."""

  def __init__(
    self,
    items: Sequence[Mapping[str, Any]],
    crop: Callable[[Image.Image], np.ndarray],
  ):
    """Takes `Dataset.items` and `Processor.crop`."""
    # Decoded images of a large catalogue would not fit memory.
    self._items, self._crop = items, crop

  def __len__(self) -> int:
    """Returns the number of items."""
    return len(self._items)

  def __getitem__(self, index: int, /) -> np.ndarray:
    """Returns one image."""
    return self._crop(records.decode_image(self._items[index]))


def encode(
  catalogue: Catalogue,
  panel: Panel,
  trained: np.ndarray,
  *,
  batch_size: int,
  num_samples: int,
  known: bool,
  done: Callable[[int], None] = lambda items: None,
) -> Items:
  """Returns every item as the encoders see it, each image read once.

  Args:
    catalogue: I images.
    panel: the encoders.
    trained: [I] bool, True = the item is in the training data.
    batch_size: P of the shape [P, G, ...] that the panel is compiled for.
    num_samples: G.
    known: read what images truly show, in the synthetic world.
    done: called with the number of items, each time that some are done.
  """
  size = batch_size * num_samples
  embeds: dict[str, list[np.ndarray]] = {}  # [P G, E] each
  attributes = []  # [P G, 5] each
  for start in range(0, len(catalogue), size):
    # The last ones are filled up with the first.
    numbers = np.arange(start, start + size) % len(catalogue)
    images = np.stack([catalogue[int(i)] for i in numbers])
    shape = (batch_size, num_samples, *images.shape[1:])
    found = on_host(panel.embed_images(images.reshape(shape)))
    for name, values in found.items():
      embeds.setdefault(name, []).append(values.reshape(size, -1))
    if known:
      attributes.append(world.read(images))
    done(min(size, len(catalogue) - start))
  count = len(catalogue)
  return Items(
    {name: np.concatenate(parts)[:count] for name, parts in embeds.items()},
    np.concatenate(attributes)[:count] if known else None,
    trained,
  )
