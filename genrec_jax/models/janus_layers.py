"""Layers between Janus's parts: aligners into the language model, code head.

Letters: D width of the language model, C codebook.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.nn import layers


class Hidden(nn.Module):
  """Layers of an aligner after its first; a module for the path's sake."""

  width: int
  depth: int
  activation: str
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    # Names count from 0, as in torch's ModuleList.
    for i in range(self.depth):
      x = layers.ACTIVATIONS[self.activation](x)
      x = layers.Linear(self.width, self.dtype, name=str(i))(x)
    return x


class Aligner(nn.Module):
  """Linear layers with activations between, into the language model's width."""

  width: int  # D
  depth: int  # of linear layers, at least 1
  activation: str
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., any] to [..., D]."""
    x = layers.Linear(self.width, self.dtype, name="fc1")(x)
    return Hidden(
      self.width,
      self.depth - 1,
      self.activation,
      self.dtype,
      name="hidden_layers",
    )(x)


class Head(nn.Module):
  """Logits of the next image code."""

  width: int
  num_codes: int
  activation: str
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to [..., C] float32."""
    x = layers.Linear(self.width, self.dtype, name="proj_out")(x)
    x = layers.ACTIVATIONS[self.activation](x)
    x = layers.Linear(self.num_codes, self.dtype, name="vision_head")(x)
    return x.astype(jnp.float32)  # a softmax follows
