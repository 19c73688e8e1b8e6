"""Reading of stored parameters straight into their shards on the devices."""

from collections.abc import Mapping
import math
from typing import Any

import jax
from jax.sharding import Sharding
import numpy as np

from genrec_jax.core import tree
from genrec_jax.core.types import PyTree
from genrec_jax.hf.lazy_array import LazyArray

# How much of a shard is on the host at once, at least a row of its first axis.
PIECE_BYTES = 2**27


def read(
  stored: Mapping[str, Any], shardings: Mapping[str, Any], dtype: Any
) -> PyTree:
  """Reads parameters onto devices; the host never holds a whole one.

  Args:
    stored: nested dict of `LazyArray`.
    shardings: nested dict of what is to be read of it, and how to lay it out.
    dtype: of the results; a nested dict gives each its own.

  Returns:
    The nested dict of `shardings` with arrays in its places.
  """
  flat, places = tree.flatten(stored), tree.flatten(shardings)
  # Those that come in several pieces are on the device twice for a moment.
  # The largest first: then there is still room.
  order = sorted(places, key=lambda path: -math.prod(flat[path].shape))
  alike = dict.fromkeys(places, dtype)
  types = tree.flatten(dtype) if isinstance(dtype, Mapping) else alike
  arrays = {p: _array(flat[p], places[p], types[p]) for p in order}
  return tree.unflatten({path: arrays[path] for path in places})


def _array(stored: LazyArray, sharding: Sharding, dtype: Any) -> jax.Array:
  # As `jax.make_array_from_callback`, which would hold all shards on the host.
  shards: dict[tuple[range, ...], jax.Array] = {}
  arrays = []
  places = sharding.addressable_devices_indices_map(stored.shape)
  for device, index in places.items():
    assert index is not None  # a device of this process always has its part
    part = tuple(
      range(size)[s] for size, s in zip(stored.shape, index, strict=True)
    )
    if part in shards:  # replicated: from one device to the next
      arrays.append(jax.device_put(shards[part], device))
    else:
      shards[part] = _shard(stored, part, dtype, device)
      arrays.append(shards[part])
  return jax.make_array_from_single_device_arrays(
    stored.shape, sharding, arrays
  )


def _shard(
  stored: LazyArray, part: tuple[range, ...], dtype: Any, device: jax.Device
) -> jax.Array:
  """Reads a part of a parameter onto a device, a few rows at a time."""
  index = tuple(slice(r.start, r.stop) for r in part)
  if not part:  # a scalar
    return jax.device_put(stored.read(index, dtype), device)
  rows, width = part[0], math.prod(map(len, part[1:]))
  step = max(1, PIECE_BYTES // max(1, width * np.dtype(dtype).itemsize))
  pieces = []
  for start in range(rows.start, max(rows.stop, rows.start + 1), step):
    first = slice(start, min(start + step, rows.stop))
    piece = jax.device_put(stored.read((first, *index[1:]), dtype), device)
    # Else the host would hold all pieces on their way.
    pieces.append(piece.block_until_ready())
  if len(pieces) == 1:
    return pieces[0]
  return jax.lax.concatenate(pieces, 0).block_until_ready()
