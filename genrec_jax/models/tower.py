"""Transformer encoder of images or texts, frozen: of CLIP, SigLIP and DINOv2.

Letters: B rows, T positions, L layers, D width, E that of an embedding.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree
from genrec_jax.nn import layers
from genrec_jax.nn.encoder import EncoderBlock


@dataclasses.dataclass(frozen=True)
class Tower:
  """Sizes of one transformer, and its functions of parameters."""

  width: int  # D
  mlp_width: int
  num_layers: int  # L
  num_heads: int
  activation: str = "quick_gelu"  # of `nn.layers.ACTIVATIONS`
  norm_epsilon: float = 1e-5
  qkv_bias: bool = True  # of queries, keys and values
  # See `nn.encoder.EncoderBlock`.
  layer_scale: bool = False
  gated: bool = False

  def __post_init__(self):
    """Checks the sizes; raises ValueError."""
    problems = []
    if self.width % self.num_heads:
      problems.append(
        f"width {self.width} is not a multiple of num_heads {self.num_heads}"
      )
    if self.activation not in layers.ACTIVATIONS:
      problems.append(
        f"activation {self.activation!r} is not one of"
        f" {tuple(layers.ACTIVATIONS)}"
      )
    if problems:
      raise ValueError("tower: " + "; ".join(problems))

  def init_layers(self, key: jax.Array) -> PyTree:
    """Returns random parameters of all layers, a leading axis [L] on each."""
    x = jnp.zeros((1, 1, self.width))
    block = self._block("float32")
    return layers.init_stack(block, key, self.num_layers, x)

  def init_norm(self) -> PyTree:
    """Returns the parameters of a norm that changes nothing more."""
    return {"scale": jnp.ones(self.width), "bias": jnp.zeros(self.width)}

  def encode(
    self, params: PyTree, x: jax.Array, mask: jax.Array | None, dtype: str
  ) -> jax.Array:
    """Runs the layers.

    Args:
      params: of `init_layers`.
      x: [B, T, D].
      mask: bool [B, T, T] or [1, T, T], True = may attend; None masks nothing.
      dtype: compute type.

    Returns:
      [B, T, D].
    """

    def step(x, layer):
      return layers.apply(self._block(dtype), layer, x, mask), None

    # Frozen: there is no backward pass to keep anything for.
    return layers.scan_stack(step, x, params, remat="none")[0]

  def norm(self, params: PyTree, x: jax.Array, dtype: str) -> jax.Array:
    """Normalises [..., D] by one of the tower's layer norms."""
    norm = layers.layer_norm(self.norm_epsilon, dtype)
    return layers.apply(norm, params, x)

  def _block(self, dtype: str) -> EncoderBlock:
    return EncoderBlock(
      self.mlp_width,
      self.num_heads,
      self.activation,
      self.norm_epsilon,
      dtype,
      qkv_bias=self.qkv_bias,
      layer_scale=self.layer_scale,
      gated=self.gated,
    )


def patches(pixels: jax.Array, size: int) -> jax.Array:
  """Cuts images [B, S, S, 3] into patches [B, T, size * size * 3], by rows.

  A convolution whose stride is its size is a matrix product of these. What does
  not fill a patch is left out, as by that convolution.
  """
  grid = pixels.shape[1] // size
  x = pixels[:, : grid * size, : grid * size]
  x = x.reshape(-1, grid, size, grid, size, 3).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(-1, grid * grid, size * size * 3)


def patch_states(params: PyTree, pixels: jax.Array, dtype: str) -> jax.Array:
  """Returns a class token and the patches of images, without positions.

  Args:
    params: 'patch_embedding', its kernel [h, w, 3, D] and if any its bias, and
      'class_embedding' of D values.
    pixels: [B, S, S, 3], normalised.
    dtype: compute type.

  Returns:
    [B, 1 + T, D].
  """
  patch = params["patch_embedding"]
  size, *_, width = patch["kernel"].shape
  kernel = patch["kernel"].reshape(-1, width).astype(dtype)
  x = patches(pixels.astype(dtype), size) @ kernel  # [B, T, D]
  if "bias" in patch:
    x += patch["bias"].reshape(1, 1, width).astype(dtype)
  first = params["class_embedding"].astype(dtype).reshape(1, 1, width)
  first = jnp.broadcast_to(first, (x.shape[0], 1, width))
  return jnp.concatenate([first, x], axis=1)  # [B, 1 + T, D]


def embed_images(
  states: Callable[[jax.Array], jax.Array], pixels: jax.Array, dtype: str
) -> jax.Array:
  """Returns unit vectors of images.

  Args:
    states: [B, h, w, 3] -> [B, E], of any length.
    pixels: [..., h, w, 3].
    dtype: compute type.

  Returns:
    [..., E] float32.
  """
  flat = pixels.reshape(-1, *pixels.shape[-3:])  # [B, h, w, 3]
  # Advantages are differences of cosines within a group, of the size of the
  # 4e-3 by which bfloat16's or TF32's products move them. In full, ViT-L/14
  # takes a TPU .5e12 multiplications an image; sampling one from the 1B 2e12.
  with layers.exactly(dtype):
    h = layers.unit(states(flat))  # [B, E]
  return h.reshape(*pixels.shape[:-3], h.shape[-1])


def embed_texts(
  states: Callable[[jax.Array, jax.Array], jax.Array],
  ids: jax.Array,
  mask: jax.Array,
  dtype: str,
  *,
  positions: int,
) -> jax.Array:
  """Returns unit vectors of tokenised texts.

  Args:
    states: ids and mask [B, W] -> [B, E], of any length.
    ids: [..., W] int.
    mask: [..., W] bool, True = a token that is read.
    dtype: compute type.
    positions: tokens of the longest text.

  Returns:
    [..., E] float32.

  Raises:
    ValueError: W is more than `positions`.
  """
  length = ids.shape[-1]
  if length > positions:
    raise ValueError(
      f"texts of {length} tokens; expected at most {positions}; truncate them"
      " when tokenising"
    )
  ids, mask = jnp.asarray(ids), jnp.asarray(mask, bool)
  with layers.exactly(dtype):  # see `embed_images`
    h = layers.unit(states(ids.reshape(-1, length), mask.reshape(-1, length)))
  return h.reshape(*ids.shape[:-1], h.shape[-1])
