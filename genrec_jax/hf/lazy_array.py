"""Arrays that are read slice by slice, from Hugging Face tensors or into them.

A parameter of ours and the tensors of a checkpoint differ in two ways: layers
are stacked along a first axis, and axes have another order.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any, Protocol

import numpy as np

# Bytes of a tensor that are read at once, at least a row: few enough to stay in
# the cache while they are transposed, four times as fast as 32 MB.
CHUNK_BYTES = 2**20


class LazyArray(Protocol):
  """A parameter whose shape is known and whose values are read when asked for.

  `HFParam` reads HF tensors, `SavedParam` a checkpoint of ours, and
  `lora_merge.LoRAParam` two others and their adapters.
  """

  @property
  def shape(self) -> tuple[int, ...]:
    """Lengths of the axes."""

  def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """Reads a slice into a new array.

    Args:
      index: a slice of step 1 for each axis.
      dtype: of the result.
    """


@dataclasses.dataclass(frozen=True)
class HFParam:
  """Parameter that lies in HF tensors; a `LazyArray`.

  Tensors are arrays, or what else has a shape, a dtype and slices that are
  arrays, such as `SafetensorsView`.
  """

  names: tuple[str, ...]  # of the tensors
  tensors: tuple[Any, ...]  # one per layer, or just one
  shape: tuple[int, ...]
  stacked: bool  # the first axis counts the tensors
  axes: tuple[int, ...] | None  # ours, in the tensor's order; None: the same

  def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """Reads a slice, and of the tensors not much more than it needs."""
    sizes = zip(self.shape, index, strict=True)
    # In the type asked for: no second copy, in the file's type, is made.
    out = np.empty([len(range(size)[part]) for size, part in sizes], dtype)
    tensors, parts = self.tensors, [out]
    if self.stacked:  # one tensor for each layer that is asked for
      tensors, index, parts = tensors[index[0]], index[1:], list(out)
    if self.axes:  # views: values move when they are written
      index = tuple(index[axis] for axis in self.axes)
      parts = [part.transpose(self.axes) for part in parts]
    for tensor, part in zip(tensors, parts, strict=True):
      for rows, into in _chunks(tensor, index):
        part[into] = tensor[rows]  # a view of `out`, in the tensor's layout
    return out

  def layer_of(self, param: Any, layer: int) -> "HFTensor":
    """Returns the HF tensor of one layer with the values of another parameter.

    Args:
      param: of this one's shape; see `HFTensor`.
      layer: which of the tensors.
    """
    tensor = self.tensors[layer]
    index = layer if self.stacked else ...
    return HFTensor(param, index, self.axes, tensor.shape, tensor.dtype)


@dataclasses.dataclass(frozen=True)
class HFTensor:
  """HF tensor that lies in a parameter; `np.asarray` fetches it."""

  param: Any  # numpy or JAX array, or a `LazyArray` with slices
  index: Any  # of the parameter: a layer's number, or all of it
  axes: tuple[int, ...] | None  # see `HFParam`
  shape: tuple[int, ...]
  dtype: np.dtype

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """Fetches the values of this layer only."""
    array = np.asarray(self.param[self.index])  # to the host, if on a device
    array = array.transpose(self.axes) if self.axes else array
    return np.asarray(array, self.dtype if dtype is None else dtype)


def _chunks(
  tensor: Any, index: tuple[slice, ...]
) -> Iterator[tuple[tuple[slice, ...], Any]]:
  """Cuts a slice of a tensor by rows: yields (where there, where here)."""
  if not index:  # a scalar has no rows
    yield (), ...
    return
  rows, rest = range(tensor.shape[0])[index[0]], index[1:]
  row_bytes = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
  step = max(1, CHUNK_BYTES // max(1, row_bytes))
  for start in range(0, len(rows), step):
    chunk = rows[start : start + step]
    yield (slice(chunk.start, chunk.stop), *rest), slice(start, start + step)
