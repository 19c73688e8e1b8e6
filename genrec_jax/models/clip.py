"""CLIP: images and texts as unit vectors of one space.

Same function as `CLIPModel` of transformers 5.23 and its image processor; the
resize, crop and normalisation of the processor happen in the graph.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.models import tower
from genrec_jax.models.pixels import Preprocessing
from genrec_jax.models.tower import Tower

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


@dataclasses.dataclass(frozen=True)
class Clip:
  """Static configuration and the functions of a CLIP model."""

  vision: Tower
  text: Tower
  projection_dim: int = 512  # E
  image_size: int = 224  # S, pixels per side after the crop
  patch_size: int = 32
  vocab_size: int = 49408
  max_position_embeddings: int = 77  # tokens of the longest text
  eos_token_id: int = 49407  # whose states are a text's; see `_text_states`
  image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
  image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
  logit_scale_init_value: float = 2.6592  # a logarithm
  dtype: str = "float32"

  @property
  def embed_dim(self) -> int:
    """E, see `encoders.ImageEncoder`."""
    return self.projection_dim

  @property
  def text_positions(self) -> int:
    """Tokens of the longest text."""
    return self.max_position_embeddings

  @property
  def reads_padding(self) -> bool:
    """Padding is masked, and after the end token nothing is read."""
    return False

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 9)
    patches = (self.image_size // self.patch_size) ** 2
    dv, dt = self.vision.width, self.text.width
    patch = (self.patch_size, self.patch_size, 3, dv)
    e = self.projection_dim

    def normal(i, scale, *shape):
      return scale * jax.random.normal(keys[i], shape)

    return {
      "vision_model": {
        "patch_embedding": {"kernel": normal(0, 0.02, *patch)},
        "class_embedding": normal(1, dv**-0.5, dv),
        "position_embedding": {"embedding": normal(2, 0.02, patches + 1, dv)},
        "pre_layrnorm": self.vision.init_norm(),  # spelt as in transformers
        "layers": self.vision.init_layers(keys[3]),
        "post_layernorm": self.vision.init_norm(),
      },
      "text_model": {
        "token_embedding": {"embedding": normal(4, 0.02, self.vocab_size, dt)},
        "position_embedding": {
          "embedding": normal(5, 0.02, self.max_position_embeddings, dt)
        },
        "layers": self.text.init_layers(keys[6]),
        "final_layer_norm": self.text.init_norm(),
      },
      "visual_projection": {"kernel": normal(7, dv**-0.5, dv, e)},
      "text_projection": {"kernel": normal(8, dt**-0.5, dt, e)},
      "logit_scale": jnp.float32(self.logit_scale_init_value),
    }

  @property
  def preprocessing(self) -> Preprocessing:
    """What `CLIPImageProcessor` does to pixels [B, h, w, 3]: [B, S, S, 3].

    The shortest side becomes `image_size` by antialiased bicubic
    interpolation, then the centre is cropped.
    """
    size = self.image_size
    return Preprocessing(size, size, self.image_mean, self.image_std)

  def embed_images(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Embeds images [..., h, w, 3]; see `encoders.ImageEncoder`."""

    def states(pixels: jax.Array) -> jax.Array:
      pixels = self.preprocessing(pixels)
      h = self._image_states(params["vision_model"], pixels)
      return h @ params["visual_projection"]["kernel"].astype(h.dtype)

    return tower.embed_images(states, pixels, self.dtype)

  def embed_texts(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Embeds texts [..., W]; see `encoders.ImageEncoder`."""

    def states(ids: jax.Array, mask: jax.Array) -> jax.Array:
      h = self._text_states(params["text_model"], ids, mask)
      return h @ params["text_projection"]["kernel"].astype(h.dtype)

    return tower.embed_texts(
      states, ids, mask, self.dtype, positions=self.text_positions
    )

  def _image_states(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Maps normalised [B, S, S, 3] to the class token's states [B, D]."""
    x = tower.patch_states(params, pixels, self.dtype)  # [B, T, D]
    positions = params["position_embedding"]["embedding"].astype(self.dtype)
    x = self.vision.norm(
      params["pre_layrnorm"], x + positions[None], self.dtype
    )
    x = self.vision.encode(params["layers"], x, None, self.dtype)
    return self.vision.norm(params["post_layernorm"], x[:, 0], self.dtype)

  def _text_states(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Maps ids and mask [B, W] to the end token's states [B, D]."""
    batch, length = ids.shape
    tokens = jnp.asarray(params["token_embedding"]["embedding"], self.dtype)
    positions = params["position_embedding"]["embedding"].astype(self.dtype)
    x = tokens[ids] + positions[None, :length]  # [B, W, D]
    causal = jnp.tril(jnp.ones((1, length, length), bool))
    mask = causal & mask[:, None, :]  # [B, W, W]
    x = self.text.encode(params["layers"], x, mask, self.dtype)
    # Checkpoints with the old, wrong end token 2 are read at the highest id,
    # which is the end token of OpenAI's vocabulary; else at its first place.
    score = ids if self.eos_token_id == 2 else ids == self.eos_token_id
    x = x[jnp.arange(batch), jnp.argmax(score, axis=-1)]  # [B, D]
    return self.text.norm(params["final_layer_norm"], x, self.dtype)


def vit_b_32(**overrides: Any) -> Clip:
  """Returns openai/clip-vit-base-patch32."""
  return dataclasses.replace(
    Clip(
      vision=Tower(768, 3072, 12, 12),
      text=Tower(512, 2048, 12, 8),
      eos_token_id=2,
    ),
    **overrides,
  )


def vit_l_14(**overrides: Any) -> Clip:
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
