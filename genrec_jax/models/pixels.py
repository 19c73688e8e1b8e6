"""Preprocessing of images for a frozen encoder, in the graph.

So real and generated images take the same way. Letters: B images, h w pixels, S
pixels per side of what the model reads.
"""

import dataclasses

import jax
import jax.numpy as jnp

# Kernels of Pillow by its numbers, and of `jax.image.resize`.
RESAMPLE = {2: "linear", 3: "cubic"}


def to_uint8(pixels: jax.Array) -> jax.Array:
  """Rounds pixels in [0, 1], which a decoder may leave, to uint8."""
  return jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What an image processor of transformers does to pixels.

  Attributes:
    resize: pixels of the shortest side, the other in proportion; or (h, w),
      whatever the image's proportions.
    crop: S, of the centre square that is cut out last.
    mean: of each channel, subtracted.
    std: of each channel, divided by.
    method: the kernel, of `RESAMPLE`; antialiased, as Pillow's.
  """

  resize: int | tuple[int, int]
  crop: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  method: str = "cubic"

  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Resizes, crops and normalises [B, h, w, 3] in [0, 1] to [B, S, S, 3].

    The image as resized must not be smaller than the crop.
    """
    batch, height, width, channels = pixels.shape
    x = pixels.astype(jnp.float32)
    scaled = self._scaled(height, width)
    if scaled != (height, width):
      x = jax.image.resize(x, (batch, *scaled, channels), self.method)
      x = jnp.clip(x, 0.0, 1.0)  # bicubic interpolation overshoots at edges
    # Of an odd margin the smaller half is on top and left.
    top = (scaled[0] - self.crop) // 2
    left = (scaled[1] - self.crop) // 2
    x = x[:, top : top + self.crop, left : left + self.crop]
    mean = jnp.asarray(self.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(self.std, jnp.float32).reshape(1, 1, 1, -1)
    return (x - mean) / std

  def _scaled(self, height: int, width: int) -> tuple[int, int]:
    if not isinstance(self.resize, int):
      return self.resize
    # The longer side is cut off to an integer, as there.
    shortest = min(height, width)
    return (
      int(self.resize * height / shortest),
      int(self.resize * width / shortest),
    )
