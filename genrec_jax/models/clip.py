"""CLIP: images and texts as unit vectors of one space.

Same function as `CLIPModel` of transformers 5.23 and its image processor; the
resize, crop and normalisation of the processor happen in the graph.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree

# Every width must be a multiple of the mesh axis that splits it. Vocabulary
# and position counts seldom are, so embeddings are split by width.
RULES = (
  (r"\w+_model/layers/self_attn/[qkv]_proj/kernel", P(None, "data", "model")),
  (r"\w+_model/layers/self_attn/[qkv]_proj/bias", P(None, "model")),
  (r"\w+_model/layers/self_attn/out_proj/kernel", P(None, "model", "data")),
  (r"\w+_model/layers/self_attn/out_proj/bias", P()),
  (r"\w+_model/layers/mlp/fc1/kernel", P(None, "data", "model")),
  (r"\w+_model/layers/mlp/fc1/bias", P(None, "model")),
  (r"\w+_model/layers/mlp/fc2/kernel", P(None, "model", "data")),
  (r"\w+_model/layers/mlp/fc2/bias", P()),
  (r"\w+_model/layers/layer_norm[12]/(scale|bias)", P()),
  (r"\w+_model/(final_layer_norm|p\w+_lay\w*norm)/(scale|bias)", P()),
  (r"\w+_model/\w+_embedding/embedding", P(None, "data")),
  (r"vision_model/patch_embedding/kernel", P(None, None, None, "data")),
  (r"vision_model/class_embedding", P()),
  (r"(text|visual)_projection/kernel", P("data", None)),
  (r"logit_scale", P()),
)


def quick_gelu(x: jax.Array) -> jax.Array:
  """Returns x * sigmoid(1.702 x), OpenAI's approximation of gelu."""
  return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "quick_gelu": quick_gelu,
  "gelu": functools.partial(nn.gelu, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class Tower:
  """Sizes of one transformer; names as in `CLIPTextConfig`."""

  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  hidden_act: str = "quick_gelu"  # or 'gelu'
  layer_norm_eps: float = 1e-5

  def __post_init__(self):
    """Checks the sizes; raises ValueError."""
    problems = []
    if self.hidden_size % self.num_attention_heads:
      problems.append(
        f"hidden_size {self.hidden_size} is not a multiple of"
        f" num_attention_heads {self.num_attention_heads}"
      )
    if self.hidden_act not in ACTIVATIONS:
      problems.append(
        f"hidden_act {self.hidden_act!r} is not one of {sorted(ACTIVATIONS)}"
      )
    if problems:
      raise ValueError("CLIP tower: " + "; ".join(problems))


def _norm(tower: Tower, dtype: str, name: str) -> nn.LayerNorm:
  # Two-pass variance: E[x^2] - E[x]^2 loses digits where activations are large.
  return nn.LayerNorm(
    epsilon=tower.layer_norm_eps,
    use_fast_variance=False,
    dtype=dtype,
    name=name,
  )


class Attention(nn.Module):
  """Multi-head attention with biases; softmax in float32."""

  tower: Tower
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]; mask [B, T, T], True = may be seen."""
    batch, length, width = x.shape
    heads = self.tower.num_attention_heads
    init = nn.initializers.normal(
      width**-0.5 * (2 * self.tower.num_hidden_layers) ** -0.5
    )
    q, k, v = (
      nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)(x).reshape(
        batch, length, heads, width // heads
      )
      for name in ("q_proj", "k_proj", "v_proj")
    )
    weights = jnp.einsum(
      "bqnh,bknh->bnqk", q, k, preferred_element_type=jnp.float32
    )
    weights = weights * (width // heads) ** -0.5
    if mask is not None:
      # The lowest finite number: a row that sees nothing must not become NaN.
      lowest = jnp.finfo(jnp.float32).min
      weights = jnp.where(mask[:, None], weights, lowest)
    weights = nn.softmax(weights).astype(v.dtype)
    h = jnp.einsum("bnqk,bknh->bqnh", weights, v).reshape(batch, length, width)
    init = nn.initializers.normal(width**-0.5)
    return nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out_proj")(
      h
    )


class MLP(nn.Module):
  """Two dense layers and an activation."""

  tower: Tower
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    t = self.tower
    init = nn.initializers.normal((2 * t.hidden_size) ** -0.5)
    h = nn.Dense(
      t.intermediate_size, dtype=self.dtype, kernel_init=init, name="fc1"
    )(x)
    h = ACTIVATIONS[t.hidden_act](h)
    init = nn.initializers.normal(
      t.hidden_size**-0.5 * (2 * t.num_hidden_layers) ** -0.5
    )
    return nn.Dense(
      t.hidden_size, dtype=self.dtype, kernel_init=init, name="fc2"
    )(h)


class Block(nn.Module):
  """One pre-norm transformer layer, as the body of a scan."""

  tower: Tower
  dtype: str

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None
  ) -> tuple[jax.Array, None]:
    """Maps [B, T, D] to [B, T, D]."""
    h = _norm(self.tower, self.dtype, "layer_norm1")(x)
    x = x + Attention(self.tower, self.dtype, name="self_attn")(h, mask)
    h = _norm(self.tower, self.dtype, "layer_norm2")(x)
    return x + MLP(self.tower, self.dtype, name="mlp")(h), None


def _layers(tower: Tower, dtype: str) -> nn.Module:
  scanned = nn.scan(
    Block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=tower.num_hidden_layers,
  )
  return scanned(tower, dtype, name="layers")


class VisionModel(nn.Module):
  """Vision transformer; the class token is the image's vector."""

  config: "Clip"

  @nn.compact
  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Maps normalised [B, S, S, 3] to [B, D]."""
    c, tower = self.config, self.config.vision
    patch, width = c.patch_size, tower.hidden_size
    grid = c.image_size // patch
    init = nn.initializers.normal(0.02)
    kernel = self.param(
      "patch_embedding",
      lambda key: {"kernel": init(key, (patch, patch, 3, width))},
    )["kernel"]
    # A convolution whose stride is its size is a matrix product of patches.
    x = pixels[:, : grid * patch, : grid * patch].astype(c.dtype)
    x = x.reshape(-1, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, grid * grid, patch * patch * 3)
    x = x @ kernel.reshape(-1, width).astype(c.dtype)
    class_token = self.param(
      "class_embedding", nn.initializers.normal(width**-0.5), (width,)
    ).astype(c.dtype)
    class_token = jnp.broadcast_to(class_token, (x.shape[0], 1, width))
    x = jnp.concatenate([class_token, x], axis=1)
    x = x + nn.Embed(
      grid * grid + 1,
      width,
      dtype=c.dtype,
      embedding_init=init,
      name="position_embedding",
    )(jnp.arange(grid * grid + 1)[None])
    x = _norm(tower, c.dtype, "pre_layrnorm")(x)  # spelt as in transformers
    x, _ = _layers(tower, c.dtype)(x, None)
    return _norm(tower, c.dtype, "post_layernorm")(x[:, 0])


class TextModel(nn.Module):
  """Causal transformer; the end-of-text token is the text's vector."""

  config: "Clip"

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps ids [B, W], mask [B, W] (True = a real token) to [B, D]."""
    c, tower = self.config, self.config.text
    length = ids.shape[1]
    init = nn.initializers.normal(0.02)
    x = nn.Embed(
      c.vocab_size,
      tower.hidden_size,
      dtype=c.dtype,
      embedding_init=init,
      name="token_embedding",
    )(ids)
    x = x + nn.Embed(
      c.max_position_embeddings,
      tower.hidden_size,
      dtype=c.dtype,
      embedding_init=init,
      name="position_embedding",
    )(jnp.arange(length)[None])
    causal = jnp.tril(jnp.ones((1, length, length), bool))
    x, _ = _layers(tower, c.dtype)(x, causal & mask[:, None, :])
    x = _norm(tower, c.dtype, "final_layer_norm")(x)
    # Checkpoints with the old, wrong end token 2 are read by the highest id,
    # which is the end token of OpenAI's vocabulary; else by its first place.
    score = ids if c.eos_token_id == 2 else ids == c.eos_token_id
    return x[jnp.arange(len(ids)), jnp.argmax(score, axis=-1)]


@dataclasses.dataclass(frozen=True)
class Clip:
  """Static configuration and the functions of a CLIP model."""

  vision: Tower
  text: Tower
  projection_dim: int = 512
  image_size: int = 224
  patch_size: int = 32
  vocab_size: int = 49408
  max_position_embeddings: int = 77
  eos_token_id: int = 49407
  image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
  image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
  logit_scale_init_value: float = 2.6592
  dtype: str = "float32"

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters, initialised as transformers does."""
    keys = jax.random.split(key, 4)
    pixels = jnp.zeros((1, self.image_size, self.image_size, 3))
    ids = jnp.zeros((1, 1), jnp.int32)

    def projection(key, width):
      shape = (width, self.projection_dim)
      return {"kernel": jax.random.normal(key, shape) * width**-0.5}

    return {
      "vision_model": VisionModel(self).init(keys[0], pixels)["params"],
      "text_model": TextModel(self).init(keys[1], ids, ids == 0)["params"],
      "visual_projection": projection(keys[2], self.vision.hidden_size),
      "text_projection": projection(keys[3], self.text.hidden_size),
      "logit_scale": jnp.float32(self.logit_scale_init_value),
    }

  def preprocess(self, pixels: jax.Array) -> jax.Array:
    """Resizes, crops and normalises images as `CLIPImageProcessor` does.

    The shortest side becomes `image_size` by antialiased bicubic
    interpolation, then the centre is cropped.

    Args:
      pixels: [B, h, w, 3] in [0, 1].

    Returns:
      [B, S, S, 3] float32.
    """
    size = self.image_size
    batch, height, width, channels = pixels.shape
    x = pixels.astype(jnp.float32)
    if min(height, width) != size:
      scaled = (
        int(size * height / min(height, width)),
        int(size * width / min(height, width)),
      )
      x = jax.image.resize(x, (batch, *scaled, channels), "cubic")
      x = jnp.clip(x, 0.0, 1.0)  # bicubic interpolation overshoots at edges
    top = (x.shape[1] - size) // 2
    left = (x.shape[2] - size) // 2
    x = x[:, top : top + size, left : left + size]
    mean = jnp.asarray(self.image_mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(self.image_std, jnp.float32).reshape(1, 1, 1, -1)
    return (x - mean) / std

  def embed_images(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Embeds images.

    Args:
      params: as from `init`.
      pixels: [..., h, w, 3] in [0, 1], any size.

    Returns:
      [..., E] float32 unit vectors.
    """
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    h = VisionModel(self).apply(
      {"params": params["vision_model"]}, self.preprocess(flat)
    )
    h = _project(h, params["visual_projection"]["kernel"])
    return h.reshape(*pixels.shape[:-3], self.projection_dim)

  def embed_texts(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Embeds tokenised texts.

    Args:
      params: as from `init`.
      ids: [..., W] int, each row with its end token.
      mask: [..., W] bool, True = a real token.

    Returns:
      [..., E] float32 unit vectors.

    Raises:
      ValueError: W is more than `max_position_embeddings`.
    """
    length = ids.shape[-1]
    if length > self.max_position_embeddings:
      raise ValueError(
        f"texts of {length} tokens; expected at most"
        f" {self.max_position_embeddings}; truncate them when tokenising"
      )
    h = TextModel(self).apply(
      {"params": params["text_model"]},
      ids.reshape(-1, length),
      mask.astype(bool).reshape(-1, length),
    )
    h = _project(h, params["text_projection"]["kernel"])
    return h.reshape(*ids.shape[:-1], self.projection_dim)


def _project(h: jax.Array, kernel: jax.Array) -> jax.Array:
  h = (h @ kernel.astype(h.dtype)).astype(jnp.float32)
  squares = jnp.sum(h**2, axis=-1, keepdims=True)
  return h * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def vit_b_32(**overrides) -> Clip:
  """Returns openai/clip-vit-base-patch32."""
  return dataclasses.replace(
    Clip(
      vision=Tower(768, 3072, 12, 12),
      text=Tower(512, 2048, 12, 8),
      eos_token_id=2,
    ),
    **overrides,
  )


def vit_l_14(**overrides) -> Clip:
  """Returns openai/clip-vit-large-patch14."""
  return dataclasses.replace(
    Clip(
      vision=Tower(1024, 4096, 24, 16),
      text=Tower(768, 3072, 12, 12),
      projection_dim=768,
      patch_size=14,
      eos_token_id=2,
    ),
    **overrides,
  )
