"""Trained parameters of a checkpoint, read slice by slice."""

import dataclasses
import functools
import os
from typing import Any

from etils import epath
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from genrec_jax.core.tree import flatten, unflatten
from genrec_jax.runtime.checkpoint import CHUNK_BYTES, FOLDER, saved_step
from genrec_jax.runtime.checkpoint_damage import reading


@dataclasses.dataclass(frozen=True)
class SavedParam:
  """A parameter in a checkpoint; `saved[index]` reads a slice as numpy."""

  folder: str
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype  # as saved; `read` casts

  def __getitem__(self, index: Any) -> np.ndarray:
    """Reads a slice and, of the rest, what shares its chunks."""
    # Orbax itself restores whole arrays and holds a shard and more of it on
    # the host; its format is one that TensorStore reads.
    spec = {
      "driver": "zarr",
      "kvstore": {
        "driver": "ocdbt",
        "base": {"driver": "file", "path": f"{self.folder}/"},
        "path": f"{self.name}/",
      },
    }
    context = _context()

    def read() -> np.ndarray:
      array = tensorstore.open(spec, open=True, read=True, context=context)
      return array.result()[index].read().result()

    return reading(os.path.dirname(self.folder), read)

  def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """Reads a slice as another type."""
    return np.asarray(self[index], dtype)


@functools.cache
def _context() -> tensorstore.Context:
  # Slices of one chunk are asked for one after another.
  return tensorstore.Context(
    {"cache_pool": {"total_bytes_limit": 2 * CHUNK_BYTES}}
  )


def open_params(workdir: str, step: int | None = None) -> dict[str, Any]:
  """Opens the trained parameters of a workdir's checkpoint, the newest.

  Returns:
    A nested dict of `SavedParam`: the trainable parameters only, to lay over
    those of `config.json`'s base model.

  Raises:
    UserError: the workdir has no whole checkpoint.
  """
  step = saved_step(workdir) if step is None else step
  folder = os.path.join(os.path.abspath(workdir), FOLDER, str(step), "params")
  found = reading(
    os.path.dirname(folder),
    lambda: flatten(
      ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    ),
  )
  return unflatten(
    {
      path: SavedParam(
        folder,
        path.replace("/", "."),  # as Orbax names arrays
        tuple(leaf.shape),
        np.dtype(leaf.dtype),
      )
      for path, leaf in found.items()
    }
  )
