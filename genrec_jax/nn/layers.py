"""Small layers and the layer stack that the transformers share."""

from collections.abc import Callable
import contextlib
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.core import sharding
from genrec_jax.core.types import PyTree
from genrec_jax.nn import attention, int8, lora

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
  "silu": nn.silu,
}


def _all_but_layouts(primitive: Any, *_: Any, **__: Any) -> bool:
  """A policy of `jax.checkpoint`: keeps no gathered layer, which is a copy."""
  return primitive.name != "sharding_constraint"


# What a block keeps for its backward pass.
REMAT_POLICIES = {
  "none": _all_but_layouts,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(attention.ATTENTION_OUTPUT),
  ),
}


def exactly(dtype: str) -> contextlib.AbstractContextManager:
  """Returns a context in which float32 products are traced as float32.

  Products of other types are as ever.

  By default a TPU multiplies float32 in bfloat16, recent GPUs in TF32. In full
  a product takes a TPU six passes instead of one, a GPU some eight times as
  long: for frozen models that see each image once, where rounding decides.
  """
  return jax.default_matmul_precision("highest" if dtype == "float32" else None)


def layer_norm(
  epsilon: float, dtype: str, name: str | None = None
) -> nn.LayerNorm:
  """Returns a LayerNorm with float32 statistics and two-pass variance."""
  # E[x^2] - E[x]^2, Flax's default, loses digits where the mean is large.
  return nn.LayerNorm(epsilon, use_fast_variance=False, dtype=dtype, name=name)


class Linear(nn.Module):
  """Linear layer on rows: what `nn.Dense` computes, on a flat matrix.

  Adapters next to the kernel are added where there are any, see `lora`; scales
  of an int8 kernel multiply its product, see `int8`.
  The backward pass of a product with more than one row axis ran 1.7x slower
  on CPU: XLA transposes the operands of the weight's gradient.
  """

  features: int
  dtype: str
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to [..., features]."""
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # [M, D]
    narrow = self.has_variable("params", int8.SCALE)
    if narrow:
      # Else XLA widens it once, before a decode loop, which then reads that.
      kernel, rows = jax.lax.optimization_barrier((kernel, rows))
    y = rows @ kernel.astype(self.dtype)  # [M, features]
    if narrow:
      scale: jax.Array = self.get_variable("params", int8.SCALE)  # [features]
      y = (y.astype(jnp.float32) * scale[None]).astype(self.dtype)
    if self.has_variable("params", lora.A):
      a: jax.Array = self.get_variable("params", lora.A)  # [D, R]
      b: jax.Array = self.get_variable("params", lora.B)  # [R, features]
      a, b = a.astype(self.dtype), b.astype(self.dtype)
      y += (rows @ a * lora.SCALE) @ b
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      y += bias.astype(self.dtype)[None]
    return y.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32; arXiv 1910.07467."""

  epsilon: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    h = x.astype(jnp.float32)
    h *= jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + self.epsilon)
    # Rounded before it is scaled, as transformers does.
    scale = scale.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return scale * h.astype(self.dtype)


class GroupNorm(nn.Module):
  """Group norm of images in float32, two-pass variance; arXiv 1803.08494.

  Same function as `nn.GroupNorm`, which reduces over groups of a few channels
  at once: on CPU that took as long as a convolution, and sums by channel first
  a third of it.
  """

  num_groups: int
  epsilon: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape; c a multiple of num_groups."""
    batch, height, width, channels = x.shape
    shape = (channels,)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)

    def group_mean(h):
      """Returns the mean of each group, for each of its channels."""
      sums = jnp.sum(h, (1, 2)).reshape(batch, self.num_groups, -1)
      means = jnp.mean(sums, -1) / (height * width)
      means = jnp.repeat(means, channels // self.num_groups, -1)
      return means[:, None, None]  # [B, 1, 1, c]

    h = x.astype(jnp.float32)
    h -= group_mean(h)
    gain = jax.lax.rsqrt(group_mean(h**2) + self.epsilon)  # [B, 1, 1, c]
    gain *= scale.reshape(1, 1, 1, -1)
    return (h * gain + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


def apply(module: nn.Module, params: PyTree, *inputs: Any) -> Any:
  """Runs a module on its parameters, a plain dict; there is no other state."""
  return module.apply({"params": params}, *inputs)


def init_stack(
  block: nn.Module, key: jax.Array, num_layers: int, *inputs: PyTree
) -> PyTree:
  """Returns parameters of `num_layers` blocks, leading axis [L] on each."""
  keys = jax.random.split(key, num_layers)
  return jax.vmap(lambda k: block.init(k, *inputs)["params"])(keys)


def scan_stack(
  step: Callable[[jax.Array, PyTree], tuple[jax.Array, PyTree]],
  x: jax.Array,
  layers: PyTree,
  remat: str,
  rules: sharding.Rules = (),
) -> tuple[jax.Array, PyTree]:
  """Runs a stack of equal layers under `lax.scan`: one layer is compiled.

  Args:
    step: maps (x, one layer's slice of `layers`) to (x, output).
    x: what flows through the layers, [B, ...].
    layers: arrays with a leading axis [L].
    remat: 'none' keeps all of a layer's intermediates for the backward pass,
      'full' none of them, 'dots' the results of its matrix products and of
        attention.
    rules: of `layers`, of which each is gathered while it runs.

  Returns:
    The last x and the outputs, with a leading axis [L].

  Raises:
    ValueError: an unknown `remat`.
  """
  if remat not in REMAT_POLICIES:
    names = ", ".join(REMAT_POLICIES)
    raise ValueError(f"remat={remat!r}: expected one of {names}")

  # Left to choose, XLA may split the width and move all rows to all devices.
  def constrained(x, layer):
    layer = sharding.gathered(rules, layer, x.dtype)
    x, out = step(sharding.constrain_batch(x), layer)
    return sharding.constrain_batch(x), out

  if remat != "none" or sharding.batch_shards() > 1:
    # The scan already keeps the recomputation from being merged with the
    # forward pass.
    constrained = jax.checkpoint(
      constrained, policy=REMAT_POLICIES[remat], prevent_cse=False
    )
  return jax.lax.scan(constrained, sharding.constrain_batch(x), layers)


def unit(x: jax.Array) -> jax.Array:
  """Scales states [..., E] to unit vectors, float32."""
  x = x.astype(jnp.float32)
  # A vector of zeros stays one, as by torch's `normalize` with eps 1e-12.
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
