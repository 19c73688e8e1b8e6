"""Layers of Emu3's image tokenizer that Janus's has not, NHWC throughout.

The tokenizer was trained on videos: an image is one frame shown several times.
Where frames are equal, a 3-D convolution is a 2-D one with taps added up. Names
are those of transformers' `Emu3VQVAE`. Letters: B images, h w latents, c
channels.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax

from genrec_jax.models.vqgan_layers import Conv1x1, enlarge, group_norm


class FrameConv(nn.Module):
  """A 3-D convolution over a list of frames, black ones before the first.

  Frames that are one array are convolved once, with the sum of their taps.
  """

  features: int
  taps: int = 3  # frames that an output sees
  side: int = 3  # pixels of the same, along both sides
  stride: int = 1  # between the frames of two outputs
  dtype: str = "float32"

  @nn.compact
  def __call__(self, frames: Sequence[jax.Array]) -> list[jax.Array]:
    """Maps frames [B, h, w, c] to frames [B, h, w, features]."""
    channels = frames[0].shape[-1]
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (self.taps, self.side, self.side, channels, self.features),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    padded = [None, None, *frames]
    made: dict[tuple[int, ...], jax.Array] = {}  # by the frames seen
    outputs = []
    for start in range(0, len(padded) - self.taps + 1, self.stride):
      window = padded[start : start + self.taps]
      key = tuple(map(id, window))
      if key not in made:
        made[key] = self._convolve(window, kernel, bias)
      outputs.append(made[key])
    return outputs

  def _convolve(
    self,
    window: Sequence[jax.Array | None],
    kernel: jax.Array,
    bias: jax.Array,
  ) -> jax.Array:
    """Convolves the frames of one output; None is a black one."""
    taps: dict[int, tuple[jax.Array, list[int]]] = {}
    for tap, frame in enumerate(window):
      if frame is not None:
        taps.setdefault(id(frame), (frame, []))[1].append(tap)
    total = bias.reshape(1, 1, 1, -1).astype(self.dtype)
    for frame, which in taps.values():
      # [side, side, c, features]
      folded = sum((kernel[tap] for tap in which[1:]), kernel[which[0]])
      total = total + jax.lax.conv_general_dilated(
        frame.astype(self.dtype),
        folded.astype(self.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
    return total


class BatchNorm(nn.Module):
  """Batch norm by its stored statistics, which are never trained."""

  dtype: str
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape."""
    shape = x.shape[-1:]
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale = self.param("scale", ones, shape)
    bias = self.param("bias", zeros, shape)
    mean = self.param("mean", zeros, shape)
    var = self.param("var", ones, shape)
    gain = scale * jax.lax.rsqrt(var + self.epsilon)
    gain, bias, mean = (v.reshape(1, 1, 1, -1) for v in (gain, bias, mean))
    return ((x - mean) * gain + bias).astype(self.dtype)


class FrameBlock(nn.Module):
  """Residual block of two 3-D convolutions on a single frame."""

  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape."""
    h = x
    for i in (1, 2):
      h = nn.silu(BatchNorm(self.dtype, name=f"norm{i}")(h))
      conv = FrameConv(x.shape[-1], dtype=self.dtype, name=f"conv{i}")
      (h,) = conv([h])
    return x + h


class SpatialNorm(nn.Module):
  """Group norm scaled and shifted by what the quantiser gave; 2209.09002."""

  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, quantised: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape; [B, h', w', E] are enlarged."""
    factor = x.shape[1] // quantised.shape[1]
    h = group_norm(self.dtype, "norm_layer")(x)
    # A 1x1 convolution of equal pixels: before they are repeated.
    gain, shift = (
      enlarge(Conv1x1(x.shape[-1], self.dtype, name=name)(quantised), factor)
      for name in ("conv_y", "conv_b")
    )
    return h * gain + shift


class FrameEncoder(nn.Module):
  """The encoder's last part: from frames of an image to the one coded."""

  halvings: int  # of the number of frames
  num_res_blocks: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c], shown 2 ** halvings times, to the same shape."""
    frames = [x] * 2**self.halvings
    for i in range(self.halvings):
      conv = FrameConv(
        x.shape[-1], taps=4, stride=2, dtype=self.dtype, name=f"time_conv_{i}"
      )
      # By identity: equal frames stay one array.
      made: dict[int, jax.Array] = {}
      frames = [made.setdefault(id(f), nn.silu(f)) for f in conv(frames)]
    (x,) = frames
    for i in range(self.num_res_blocks):
      x = FrameBlock(self.dtype, name=f"time_res_stack_{i}")(x)
    return x


class FrameDecoder(nn.Module):
  """The decoder's first part: from the coded frame to the first of its video.

  No frame comes before it, so that each convolution sees its last tap only.
  """

  doublings: int  # of the number of frames
  num_res_blocks: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape."""
    for i in range(self.num_res_blocks):
      x = FrameBlock(self.dtype, name=f"time_res_stack_{i}")(x)
    for i in range(self.doublings):
      conv = FrameConv(x.shape[-1], dtype=self.dtype, name=f"time_conv_{i}")
      (x,) = conv([x])
      x = nn.silu(x)
    return x
