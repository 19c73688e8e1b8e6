"""Chunks: a function mapped over parts of an axis, one after another.

One part's intermediates live at a time, so large inputs need little memory.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree


def map_chunks(
  function: Callable[..., PyTree],
  chunks: int,
  *inputs: PyTree,
  axis: int = 0,
  strided: bool = False,
) -> PyTree:
  """Maps a function over equal chunks of an axis of its inputs.

  Args:
    function: of trees of arrays, to another such tree; `axis` is its length
      divided by `chunks` in both.
    chunks: how many, a divisor of the axis's length.
    *inputs: trees of arrays.
    axis: of all inputs and results.
    strided: see `split_chunks`.

  Returns:
    The results along the whole axis, in its order.
  """
  if chunks == 1:  # a loop of one step would still be a loop to XLA
    return function(*inputs)

  def split(x: jax.Array) -> jax.Array:
    return split_chunks(x, chunks, axis=axis, strided=strided)

  # [chunks, ..., n, ...]: `map` takes one after another off the front.
  parts = jax.lax.map(lambda part: function(*part), jax.tree.map(split, inputs))
  return jax.tree.map(
    lambda x: join_chunks(x, axis=axis, strided=strided), parts
  )


def split_chunks(
  x: jax.Array, chunks: int, *, axis: int = 0, strided: bool = False
) -> jax.Array:
  """Splits an axis: [..., N, ...] to [chunks, ..., N / chunks, ...].

  Args:
    x: an array.
    chunks: how many, a divisor of N.
    axis: to be split.
    strided: a chunk holds every `chunks`-th element, not N / chunks neighbours.
      Where the axis is sharded, devices then go on working on what they hold.
  """
  axis %= x.ndim
  size = x.shape[axis] // chunks
  # Strided: element i of the axis goes to chunk i % chunks.
  lengths = (size, chunks) if strided else (chunks, size)
  x = x.reshape(*x.shape[:axis], *lengths, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis + strided, 0)  # [chunks, ..., N / chunks, ...]


def join_chunks(
  x: jax.Array, *, axis: int = 0, strided: bool = False
) -> jax.Array:
  """Undoes `split_chunks`: [chunks, ..., n, ...] to [..., chunks n, ...]."""
  axis %= x.ndim - 1
  x = jnp.moveaxis(x, 0, axis + strided)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
