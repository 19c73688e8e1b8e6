"""VQGAN image tokenizer of Janus: pixels <-> codes, NHWC throughout.

Same function as `JanusVQVAE` of transformers 5.23, with one module per module
there; a numbered child such as `down.0.block.1` is `down_0/block_1` here.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.nn import layers

# Frozen, small next to the language model and applied once per step: a copy on
# every device costs less than gathering it.
RULES = (
  (r"quantizer/embedding", P()),
  (r"(en|de)coder/\w+(/\w+)*/kernel", P()),
  (r"(en|de)coder/\w+(/\w+)*/scale", P()),
  (r"(en|de)coder/\w+(/\w+)*/bias", P()),
  (r"(post_)?quant_conv/(kernel|bias)", P()),
)


def _conv(features: int, dtype: str, name: str) -> nn.Conv:
  return nn.Conv(features, (3, 3), padding=1, dtype=dtype, name=name)


def _norm(dtype: str, name: str) -> layers.GroupNorm:
  return layers.GroupNorm(32, 1e-6, dtype, name=name)


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
    rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = rows @ kernel.reshape(shape[2:]).astype(self.dtype)
    y += bias.astype(self.dtype)[None]
    return y.reshape(*x.shape[:-1], self.features)


class ResnetBlock(nn.Module):
  """Two normalised 3x3 convolutions and a shortcut."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to [B, h, w, features]."""
    h = nn.silu(_norm(self.dtype, "norm1")(x))
    h = _conv(self.features, self.dtype, "conv1")(h)
    h = nn.silu(_norm(self.dtype, "norm2")(h))
    h = _conv(self.features, self.dtype, "conv2")(h)
    if x.shape[-1] != self.features:
      x = Conv1x1(self.features, self.dtype, name="nin_shortcut")(x)
    return x + h


class AttnBlock(nn.Module):
  """One head of attention over all positions of the feature map."""

  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape; softmax in float32."""
    batch, height, width, channels = x.shape
    h = _norm(self.dtype, "norm")(x)
    q, k, v = (
      Conv1x1(channels, self.dtype, name=name)(h).reshape(batch, -1, channels)
      for name in "qkv"
    )
    weights = jnp.einsum(
      "bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32
    )
    weights = nn.softmax(weights * channels**-0.5).astype(v.dtype)
    h = jnp.einsum("bqk,bkc->bqc", weights, v)
    h = h.reshape(batch, height, width, channels)
    return x + Conv1x1(channels, self.dtype, name="proj_out")(h)


class MidBlock(nn.Module):
  """Residual block, attention, residual block at the coarsest resolution."""

  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to the same shape."""
    x = ResnetBlock(x.shape[-1], self.dtype, name="block_1")(x)
    x = AttnBlock(self.dtype, name="attn_1")(x)
    return ResnetBlock(x.shape[-1], self.dtype, name="block_2")(x)


class Level(nn.Module):
  """The blocks of one resolution, then a change to the next one, if any."""

  features: int
  num_blocks: int
  attention: bool
  resample: str  # 'down', 'up' or 'none'
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h, w, c] to features at half, double or the same resolution."""
    for i in range(self.num_blocks):
      x = ResnetBlock(self.features, self.dtype, name=f"block_{i}")(x)
      if self.attention:
        x = AttnBlock(self.dtype, name=f"attn_{i}")(x)
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
      batch, height, width, channels = x.shape
      x = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
      ).reshape(batch, 2 * height, 2 * width, channels)
      x = _conv(self.features, self.dtype, "upsample")(x)
    return x


class Encoder(nn.Module):
  """Pixels to latents, one halving per level but the last."""

  config: "VQGAN"

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
        name=f"down_{i}",
      )(x)
    x = MidBlock(c.dtype, name="mid")(x)
    x = nn.silu(_norm(c.dtype, "norm_out")(x))
    return _conv(c.latent_channels, c.dtype, "conv_out")(x)


class Decoder(nn.Module):
  """Latents to pixels; `up_0` is the coarsest level, as in transformers."""

  config: "VQGAN"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, h', w', latent_channels] to [B, h, w, out_channels]."""
    c = self.config
    last = len(c.channel_multiplier) - 1
    widths = [c.base_channels * m for m in reversed(c.channel_multiplier)]
    x = _conv(widths[0], c.dtype, "conv_in")(x)
    x = MidBlock(c.dtype, name="mid")(x)
    for i, width in enumerate(widths):
      x = Level(
        width,
        c.num_res_blocks + 1,
        attention=i == 0,
        resample="none" if i == last else "up",
        dtype=c.dtype,
        name=f"up_{i}",
      )(x)
    x = nn.silu(_norm(c.dtype, "norm_out")(x))
    return _conv(c.out_channels, c.dtype, "conv_out")(x)


@dataclasses.dataclass(frozen=True)
class VQGAN:
  """Static configuration and the functions of the image tokenizer.

  Field names and defaults are those of `JanusVQVAEConfig` (Janus-Pro).
  Channel counts must be multiples of 32, the number of norm groups.
  """

  embed_dim: int = 8
  num_embeddings: int = 16384
  latent_channels: int = 256
  in_channels: int = 3
  out_channels: int = 3
  base_channels: int = 128
  channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
  num_res_blocks: int = 2
  dtype: str = "float32"
  l2_norm: bool = True  # see `quantize`

  @property
  def downsampling(self) -> int:
    """Pixels per code, along each side."""
    return 2 ** (len(self.channel_multiplier) - 1)

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 5)
    size = self.downsampling
    pixels = jnp.zeros((1, size, size, self.in_channels))
    latents = jnp.zeros((1, 1, 1, self.latent_channels))
    codes = jnp.zeros((1, 1, 1, self.embed_dim))
    codebook = jax.random.normal(keys[4], (self.num_embeddings, self.embed_dim))
    codebook /= jnp.linalg.norm(codebook, axis=-1, keepdims=True)
    return {
      "encoder": Encoder(self).init(keys[0], pixels)["params"],
      "quant_conv": self._quant_conv().init(keys[1], latents)["params"],
      "quantizer": {"embedding": codebook},
      "post_quant_conv": self._post_conv().init(keys[2], codes)["params"],
      "decoder": Decoder(self).init(keys[3], latents)["params"],
    }

  def latents(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Encodes without quantising; differentiable.

    Args:
      params: as from `init`.
      pixels: [B, h, w, 3] in [-1, 1]; h and w multiples of `downsampling`.

    Returns:
      [B, h', w', embed_dim] float32, what the quantiser compares to the
      codebook.

    Raises:
      ValueError: h or w is not a multiple of `downsampling`.
    """
    height, width = pixels.shape[1:3]
    if height % self.downsampling or width % self.downsampling:
      raise ValueError(
        f"image of {height}x{width} pixels; expected multiples of"
        f" {self.downsampling}; resize it first"
      )
    # An argmin follows: a code flips where rounding moves a latent across a
    # border (.7 % of tiny_sft's in bfloat16). It costs .9e12 multiplications an
    # image of 384 pixels on a TPU, a twentieth of a step of SFT of the 1B.
    # The decoder stays at the default: no argmin follows, an image is scored as
    # it was drawn, bfloat16 moves its pixels by no more than an image file's 8
    # bits do (.0010 and .0011, root mean square, tiny_sft), and full products
    # would take as many as sampling the image from the 1B, 2e12.
    with layers.exactly(self.dtype):
      h = layers.apply(Encoder(self), params["encoder"], pixels)
      h = layers.apply(self._quant_conv(), params["quant_conv"], h)
    return h.astype(jnp.float32)

  def quantize(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Returns the nearest codes [B, h', w'] of latents [B, h', w', embed_dim].

    Squared distance in float32; the first of equals wins. With `l2_norm` both
    are normalised first, as DeepSeek's tokenizer does (janus/models/vq_model.py
    of deepseek-ai/Janus at 1daa72f, `codebook_l2_norm`), so the nearest code is
    that of the largest cosine. Without it they are compared as they are, as in
    transformers: the same codes only if all codebook vectors have one length.
    """
    book = params["quantizer"]["embedding"].astype(jnp.float32)  # [C, E]
    z = latents.astype(jnp.float32)
    if self.l2_norm:
      book, z = _unit(book), _unit(z)
    dots = jnp.einsum(
      "bhwe,ce->bhwc", z, book, precision=jax.lax.Precision.HIGHEST
    )
    squares = jnp.sum(z**2, -1, keepdims=True) + jnp.sum(book**2, -1).reshape(
      1, 1, 1, -1
    )
    return jnp.argmin(squares - 2 * dots, axis=-1).astype(jnp.int32)

  def encode(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Returns the codes [B, h', w'] int32 of pixels [B, h, w, 3] in [-1, 1]."""
    return self.quantize(params, self.latents(params, pixels))

  def lookup(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Returns unit-length codebook vectors [..., embed_dim] of codes [...].

    Normalised as `JanusVQVAEVectorQuantizer.get_codebook_entry` does.
    """
    book = jnp.asarray(params["quantizer"]["embedding"], jnp.float32)
    return _unit(book[codes])

  def decode_latents(self, params: PyTree, latents: jax.Array) -> jax.Array:
    """Decodes what `lookup` returns; differentiable.

    Args:
      params: as from `init`.
      latents: [B, h', w', embed_dim].

    Returns:
      [B, h, w, 3] float32, nominally in [-1, 1] and not clipped.
    """
    h = layers.apply(self._post_conv(), params["post_quant_conv"], latents)
    h = layers.apply(Decoder(self), params["decoder"], h)
    return h.astype(jnp.float32)

  def decode(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Draws codes [B, h', w'] as pixels [B, h, w, 3]; see `decode_latents`."""
    return self.decode_latents(params, self.lookup(params, codes))

  def _quant_conv(self) -> nn.Module:
    return Conv1x1(self.embed_dim, self.dtype)

  def _post_conv(self) -> nn.Module:
    return Conv1x1(self.latent_channels, self.dtype)


def _unit(x: jax.Array) -> jax.Array:
  """Returns vectors [..., E] of length 1; torch's `normalize`, eps 1e-12."""
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
