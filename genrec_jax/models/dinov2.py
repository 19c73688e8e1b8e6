"""DINOv2: images as unit vectors, learned from images alone.

Same function as `Dinov2Model` of transformers 5.24 (arXiv 2304.07193) and its
image processor; what is embedded is its `pooler_output`, the class token's
states after the last norm. Letters: B images, T patches, N stored positions, D
width, S pixels per side.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import PyTree
from genrec_jax.models import tower
from genrec_jax.models.pixels import Preprocessing
from genrec_jax.models.tower import Tower


@dataclasses.dataclass(frozen=True)
class Dinov2:
  """Static configuration and the functions of a DINOv2 model."""

  vision: Tower
  preprocessing: Preprocessing
  image_size: int = 518  # pixels per side that positions are stored for
  patch_size: int = 14
  dtype: str = "float32"

  @property
  def embed_dim(self) -> int:
    """E, see `encoders.ImageEncoder`: the width."""
    return self.vision.width

  @property
  def text_positions(self) -> int:
    """It reads no texts."""
    return 0

  @property
  def reads_padding(self) -> bool:
    """It reads no texts."""
    return False

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 4)
    positions = (self.image_size // self.patch_size) ** 2 + 1  # N + 1
    d, size = self.vision.width, self.patch_size

    def normal(i, *shape):
      return 0.02 * jax.random.normal(keys[i], shape)

    return {
      "patch_embedding": {
        "kernel": normal(0, size, size, 3, d),
        "bias": jnp.zeros(d),
      },
      # In the shapes that files have.
      "class_embedding": normal(1, 1, 1, d),
      "position_embedding": normal(2, 1, positions, d),
      "layers": self.vision.init_layers(keys[3]),
      "layernorm": self.vision.init_norm(),
    }

  def embed_images(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Embeds images [..., h, w, 3]; see `encoders.ImageEncoder`."""

    def states(pixels: jax.Array) -> jax.Array:
      return self.class_states(params, self.preprocessing(pixels))

    return tower.embed_images(states, pixels, self.dtype)

  def embed_texts(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Raises ValueError: it was trained on images alone."""
    del params, ids, mask
    raise ValueError("DINOv2 has no text tower: expected texts for CLIP only")

  def class_states(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Maps normalised [B, S, S, 3] to the class token's states [B, D]."""
    x = tower.patch_states(params, pixels, self.dtype)  # [B, 1 + T, D]
    grid = pixels.shape[1] // self.patch_size
    x += self._positions(params, grid).astype(self.dtype)
    x = self.vision.encode(params["layers"], x, None, self.dtype)
    return self.vision.norm(params["layernorm"], x[:, 0], self.dtype)

  def _positions(self, params: PyTree, grid: int) -> jax.Array:
    """Returns [1, 1 + T, D] for a grid of T patches, interpolated from N."""
    table = params["position_embedding"].astype(jnp.float32)
    stored = self.image_size // self.patch_size
    if stored == grid:
      return table
    weights = jnp.asarray(bicubic_weights(stored, grid))
    square = table[0, 1:].reshape(stored, stored, -1)
    square = jnp.einsum("yi,xj,ijd->yxd", weights, weights, square)
    square = square.reshape(1, grid * grid, -1)
    return jnp.concatenate([table[:, :1], square], axis=1)


def bicubic_weights(old: int, new: int) -> np.ndarray:
  """Returns weights [new, old] of one axis's bicubic interpolation.

  That of torch's `interpolate` without aligned corners or antialiasing, which
  is not that of image processors: Keys' kernel with a = -0.75, and at the edges
  the last value repeated.
  """
  a = -0.75
  places = (np.arange(new) + 0.5) * old / new - 0.5
  left = np.floor(places).astype(int)
  weights = np.zeros((new, old))
  for tap in (-1, 0, 1, 2):
    distance = np.abs(places - (left + tap))
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    value = np.where(distance <= 1, near, far)
    # Added, not set: at an edge several taps fall on the last value.
    np.add.at(weights, (np.arange(new), np.clip(left + tap, 0, old - 1)), value)
  return weights.astype(np.float32)
