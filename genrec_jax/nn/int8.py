"""Eight bits: half of what a decode loop reads of kernels, keys and values.

A kernel [L, in, out] becomes int8 with a leaf next to it, `SCALE` [L, out]:
one number for each output, so that the scaling follows the product. Keys and
values are `Vectors`, with a number for each. Rounding is to the nearest of 255
values, symmetric; section 3 of arXiv 2208.07339 without its outliers, as what
is multiplied with them is not rounded here.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core import tree

SCALE = "kernel_scale"
_MOST = 127  # of the values -127 to 127


@struct.dataclass
class Vectors:
  """Keys or values [..., S, H], or keys transposed, [..., H, S]."""

  values: jax.Array  # int8, shaped as those
  scale: jax.Array  # [..., S] float32
  dtype: str = struct.field(pytree_node=False)  # that products are computed in

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the keys or values."""
    return self.values.shape

  @property
  def wide(self) -> jax.Array:
    """The values in the type that computes, to be multiplied by the scale."""
    return self.values.astype(self.dtype)


# Keys or values, in eight bits or as they were computed.
Stored = jax.Array | Vectors


def vectors(x: jax.Array) -> Vectors:
  """Rounds vectors [..., H], each by itself."""
  values, scale = rounded(x, -1)
  return Vectors(values, scale, x.dtype.name)


def zeros(shape: tuple[int, ...], dtype: str) -> Vectors:
  """Returns vectors [..., H] of zeros."""
  values = jnp.zeros(shape, jnp.int8)
  return Vectors(values, jnp.ones(shape[:-1], jnp.float32), dtype)


def reshaped(x: Stored, shape: tuple[int, ...]) -> Stored:
  """Gives vectors another shape [..., H]."""
  if not isinstance(x, Vectors):
    return x.reshape(shape)
  return dataclasses.replace(
    x, values=x.values.reshape(shape), scale=x.scale.reshape(shape[:-1])
  )


def upto(x: Stored, length: int) -> Stored:
  """Returns the first so many vectors of [..., S, H]."""
  if not isinstance(x, Vectors):
    return x[..., :length, :]
  return dataclasses.replace(
    x, values=x.values[..., :length, :], scale=x.scale[..., :length]
  )


def transposed(x: Stored) -> Stored:
  """Returns [..., H, S] of [..., S, H]."""
  if not isinstance(x, Vectors):
    return x.swapaxes(-1, -2)
  return dataclasses.replace(x, values=x.values.swapaxes(-1, -2))


def narrowed(params: Mapping[str, Any], pattern: str) -> tree.Tree:
  """Returns parameters whose kernels of matching whole paths are int8."""
  flat = tree.flatten(params)
  for path in [path for path in flat if re.fullmatch(pattern, path)]:
    # Before all layers run: a loop would round them again at every token.
    flat[path], scale = rounded(flat[path], -2)
    flat[f"{path.rpartition('/')[0]}/{SCALE}"] = scale
  return tree.unflatten(flat)


def cast(params: Mapping[str, Any], dtype: str) -> tree.Tree:
  """Casts parameters, but for int8 kernels and their scales."""

  def one(path: str, x: jax.Array) -> jax.Array:
    # A scale of bfloat16's precision would be one more rounding.
    kept = x.dtype == jnp.int8 or path.endswith(SCALE)
    return x if kept else x.astype(dtype)

  flat = tree.flatten(params)
  return tree.unflatten({path: one(path, x) for path, x in flat.items()})


def rounded(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Rounds to int8, with a float32 scale for all that is along an axis.

  Their product is nowhere further from `x` than half a scale.
  """
  wide = x.astype(jnp.float32)
  most = jnp.max(jnp.abs(wide), axis, keepdims=True)
  # What is all zeros has any scale.
  scale = jnp.where(most > 0, most / _MOST, 1.0)
  return jnp.round(wide / scale).astype(jnp.int8), jnp.squeeze(scale, axis)
