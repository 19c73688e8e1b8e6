"""Layers of the VQGAN image tokenizer: encoder and decoder, NHWC throughout.

One module per module of transformers' `JanusVQVAE`; a numbered child such as
`down.0.block.1` is `down_0/block_1` here. `models.movqgan` is made of the same
ones, with other norms in its decoder. Letters: B images, h w pixels or latents,
c channels.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.models.image_tokenizer import ImageTokenizer
from genrec_jax.nn import layers

# Maps (dtype, name) to a norm, whose parameters are the calling module's.
Norm = Callable[[str, str], Callable[[jax.Array], jax.Array]]


def _conv(features: int, dtype: str, name: str) -> nn.Conv:
  return nn.Conv(features, (3, 3), padding=1, dtype=dtype, name=name)


def group_norm(dtype: str, name: str) -> layers.GroupNorm:
  """Returns the norm of both tokenizers."""
  # 32 groups whatever the width: the format fixes them.
  return layers.GroupNorm(32, 1e-6, dtype, name=name)


def enlarge(x: jax.Array, factor: int) -> jax.Array:
  """Repeats pixels along both sides: [B, h, w, c] to [B, f h, f w, c]."""
  b, h, w, c = x.shape
  x = x[:, :, None, :, None, :]
  x = jnp.broadcast_to(x, (b, h, factor, w, factor, c))
  return x.reshape(b, factor * h, factor * w, c)


class Conv1x1(nn.Module):
  """A 1x1 convolution as a matrix product: its backward pass is far faster."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to [B, h, w, features]."""
    shape = (1, 1, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, shape[-1:])
    rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # [B h w, c]
    y = rows @ kernel.reshape(shape[2:]).astype(self.dtype)
    y += bias.astype(self.dtype)[None]
    return y.reshape(*x.shape[:-1], self.features)


class ResnetBlock(nn.Module):
  """Two normalised 3x3 convolutions and a shortcut."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, norm: Norm = group_norm) -> jax.Array:
    """Maps [B, h, w, c] to [B, h, w, features]."""
    h = nn.silu(norm(self.dtype, "norm1")(x))
    h = _conv(self.features, self.dtype, "conv1")(h)
    h = nn.silu(norm(self.dtype, "norm2")(h))
    h = _conv(self.features, self.dtype, "conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv1x1(self.features, self.dtype, name="nin_shortcut")(x)
    return x + h


class AttnBlock(nn.Module):
  """One head of attention over all positions of the feature map.

  The kernels of its projections are those of `dense`: Conv1x1 or Linear.
  """

  dtype: str
  dense: Callable[..., nn.Module] = Conv1x1

  @nn.compact
  def __call__(self, x: jax.Array, norm: Norm = group_norm) -> jax.Array:
    """Maps [B, h, w, c] to the same shape; softmax in float32."""
    batch, height, width, channels = x.shape
    h = norm(self.dtype, "norm")(x)
    q, k, v = (  # [B, h w, c] each
      self.dense(channels, self.dtype, name=n)(h).reshape(batch, -1, channels)
      for n in "qkv"
    )
    weights = jnp.einsum(
      "bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32
    )  # [B, h w, h w]
    weights = nn.softmax(weights * channels**-0.5).astype(v.dtype)
    h = jnp.einsum("bqk,bkc->bqc", weights, v)  # [B, h w, c]
    h = h.reshape(batch, height, width, channels)
    return x + self.dense(channels, self.dtype, name="proj_out")(h)


class MidBlock(nn.Module):
  """Residual block, attention, residual block at the coarsest resolution."""

  dtype: str
  dense: Callable[..., nn.Module] = Conv1x1

  @nn.compact
  def __call__(self, x: jax.Array, norm: Norm = group_norm) -> jax.Array:
    """Maps [B, h, w, c] to the same shape."""
    x = ResnetBlock(x.shape[-1], self.dtype, name="block_1")(x, norm)
    x = AttnBlock(self.dtype, self.dense, name="attn_1")(x, norm)
    return ResnetBlock(x.shape[-1], self.dtype, name="block_2")(x, norm)


class Level(nn.Module):
  """The blocks of one resolution, then a change to the next one, if any."""

  features: int
  num_blocks: int
  attention: bool
  resample: str  # 'down', 'up' or 'none'
  dtype: str
  dense: Callable[..., nn.Module] = Conv1x1

  @nn.compact
  def __call__(self, x: jax.Array, norm: Norm = group_norm) -> jax.Array:
    """Maps [B, h, w, c] to features at half, double or the same resolution."""
    for i in range(self.num_blocks):
      x = ResnetBlock(self.features, self.dtype, name=f"block_{i}")(x, norm)
      if self.attention:
        x = AttnBlock(self.dtype, self.dense, name=f"attn_{i}")(x, norm)
    if self.resample == "down":  # padded at the bottom and right only
      conv = nn.Conv(
        self.features,
        (3, 3),
        strides=2,
        padding=((0, 1), (0, 1)),
        dtype=self.dtype,
        name="downsample",
      )
      x = conv(x)
    elif self.resample == "up":
      x = enlarge(x, 2)
      x = _conv(self.features, self.dtype, "upsample")(x)
    return x


class Encoder(nn.Module):
  """Encoder: pixels to latents, one halving per level but the last."""

  config: ImageTokenizer

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, 3] to [B, h', w', latent_channels]."""
    c = self.config
    last = len(c.channel_multiplier) - 1
    x = _conv(c.base_channels, c.dtype, "conv_in")(x)
    for i, multiplier in enumerate(c.channel_multiplier):
      x = Level(
        c.base_channels * multiplier,
        c.num_res_blocks,
        attention=i == last,
        resample="none" if i == last else "down",
        dtype=c.dtype,
        dense=c.dense,
        name=f"down_{i}",
      )(x)
    x = MidBlock(c.dtype, c.dense, name="mid")(x)
    x = nn.silu(group_norm(c.dtype, "norm_out")(x))
    return _conv(c.latent_channels, c.dtype, "conv_out")(x)


class Decoder(nn.Module):
  """Decoder: latents to pixels; `up_0` is the coarsest, as in transformers."""

  config: ImageTokenizer

  @nn.compact
  def __call__(self, x: jax.Array, norm: Norm = group_norm) -> jax.Array:
    """Maps [B, h', w', latent_channels] to [B, h, w, out_channels]."""
    c = self.config
    last = len(c.channel_multiplier) - 1
    # Coarsest first.
    widths = [c.base_channels * m for m in reversed(c.channel_multiplier)]
    x = _conv(widths[0], c.dtype, "conv_in")(x)
    x = MidBlock(c.dtype, c.dense, name="mid")(x, norm)
    for i, width in enumerate(widths):
      x = Level(
        width,
        c.num_res_blocks + 1,
        attention=i == 0,
        resample="none" if i == last else "up",
        dtype=c.dtype,
        dense=c.dense,
        name=f"up_{i}",
      )(x, norm)
    x = nn.silu(norm(c.dtype, "norm_out")(x))
    return _conv(c.out_channels, c.dtype, "conv_out")(x)
