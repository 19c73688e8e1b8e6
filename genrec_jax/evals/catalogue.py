"""Every item's image, decoded when indexed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from genrec_jax.data import records


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
