"""Kernels of a run that trained adapters: read as the sum of both."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from genrec_jax.hf.lazy_array import LazyArray
from genrec_jax.nn import lora


@dataclasses.dataclass(frozen=True)
class LoRAParam:
  """Kernel plus its adapters, read slice by slice; a `LazyArray`."""

  # [L, in, out]; None where a base model lacks it, which `load` refuses.
  kernel: LazyArray | None
  a: LazyArray  # [L, in, R]
  b: LazyArray  # [L, R, out]

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the kernel which the adapters fit."""
    return (*self.a.shape[:2], self.b.shape[-1])

  def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """Reads W + 2 A B, summed in float32, as another type.

    Args:
      index: a slice of step 1 for each axis.
      dtype: of the result.
    """
    layers, rows, columns = index  # of the sum, only what is asked for
    rank = slice(0, self.a.shape[-1])
    a = self.a.read((layers, rows, rank), np.float32)
    b = self.b.read((layers, rank, columns), np.float32)
    total = a @ b
    total *= np.float32(lora.SCALE)
    assert self.kernel is not None
    total += self.kernel.read(index, np.float32)
    return total.astype(dtype, copy=False)

  def __getitem__(self, layer: int) -> np.ndarray:
    """Reads one layer's [in, out], float32."""
    sides = (slice(0, size) for size in self.shape[1:])
    return self.read((slice(layer, layer + 1), *sides), np.float32)[0]


def merged(
  saved: Mapping[str, LazyArray], base: Mapping[str, LazyArray]
) -> dict[str, LazyArray]:
  """Returns a checkpoint's parameters, kernels in the place of adapters.

  Args:
    saved: path -> parameter; an adapter whose other half is not there stays.
    base: path -> parameter that they are laid over.
  """
  found = dict(saved)
  for path in saved:
    kernel, other = (lora.sibling(path, name) for name in (lora.KERNEL, lora.B))
    if path.endswith(f"/{lora.A}") and other in saved:
      pair = found.pop(path), found.pop(other)
      found[kernel] = LoRAParam(base.get(kernel), *pair)
  return found
