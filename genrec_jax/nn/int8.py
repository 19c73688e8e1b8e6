"""Kernels in eight bits: half of what a decode loop reads of them.

A kernel [L, in, out] becomes int8 with a leaf next to it, `SCALE` [L, out]:
one number for each output, so that the scaling follows the product. Rounding to
the nearest of 255 values, symmetric: section 3 of arXiv 2208.07339 without its
outliers, as activations are not rounded here.
"""

from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax.core import tree

SCALE = "kernel_scale"
_MOST = 127  # of the values -127 to 127


def narrowed(params: Mapping[str, Any], pattern: str) -> tree.Tree:
  """Returns parameters whose kernels of matching whole paths are int8."""
  flat = tree.flatten(params)
  for path in [path for path in flat if re.fullmatch(pattern, path)]:
    # Before all layers run: a loop would round them again at every token.
    flat[path], scale = rounded(flat[path])
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


def rounded(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Rounds a kernel [..., in, out]: int8, and its scales [..., out] float32.

  Their product is nowhere further from the kernel than half a scale.
  """
  wide = kernel.astype(jnp.float32)
  most = jnp.max(jnp.abs(wide), -2, keepdims=True)  # [..., 1, out]
  # An output without weights has any scale.
  scale = jnp.where(most > 0, most / _MOST, 1.0)
  return jnp.round(wide / scale).astype(jnp.int8), jnp.squeeze(scale, -2)
