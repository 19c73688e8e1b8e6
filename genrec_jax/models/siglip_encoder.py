"""SigLIP: images and texts as unit vectors of one space.

Same function as `SiglipModel` of transformers 5.24 (arXiv 2303.15343) and its
image processor. Letters: B rows, T patches, W tokens, D a tower's width, E that
of the common space.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree
from genrec_jax.models import tower
from genrec_jax.models.pixels import Preprocessing
from genrec_jax.models.siglip import Siglip
from genrec_jax.models.tower import Tower
from genrec_jax.nn import attention, layers
from genrec_jax.nn.encoder import MLP


@dataclasses.dataclass(frozen=True)
class SiglipEncoder:
  """Static configuration and the functions of a SigLIP model."""

  vision: Siglip  # whose `output_name` is 'out_proj'
  text: Tower
  preprocessing: Preprocessing
  vocab_size: int = 32000
  text_positions: int = 64  # tokens of the longest text
  dtype: str = "float32"

  @property
  def embed_dim(self) -> int:
    """E, see `encoders.ImageEncoder`: the width of the vision tower."""
    return self.vision.width

  @property
  def reads_padding(self) -> bool:
    """A text's vector is read at its last position, padding or not."""
    return True

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 5)
    dt = self.text.width

    def table(i, rows):
      return {"embedding": 0.02 * jax.random.normal(keys[i], (rows, dt))}

    head = layers.Linear(self.embed_dim, "float32")
    return {
      "vision_model": self.vision.init(keys[0])
      | {"head": self._init_head(keys[1])},
      "text_model": {
        "token_embedding": table(2, self.vocab_size),
        "position_embedding": table(3, self.text_positions),
        "layers": self.text.init_layers(keys[4]),
        "final_layer_norm": self.text.init_norm(),
        "head": head.init(keys[4], jnp.zeros((1, dt)))["params"],
      },
      # In the shapes that files have; of its loss, and no part of a cosine.
      "logit_scale": jnp.zeros(1),
      "logit_bias": jnp.zeros(1),
    }

  def embed_images(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Embeds images [..., h, w, 3]; see `encoders.ImageEncoder`."""

    def states(pixels: jax.Array) -> jax.Array:
      return self.image_states(
        params["vision_model"], self.preprocessing(pixels)
      )

    return tower.embed_images(states, pixels, self.dtype)

  def embed_texts(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Embeds texts [..., W]; see `encoders.ImageEncoder`.

    Padded to `text_positions` as in training, where padding was read, too: the
    vector is that of the last position.
    """
    return tower.embed_texts(
      functools.partial(self.text_states, params["text_model"]),
      ids,
      mask,
      self.dtype,
      positions=self.text_positions,
    )

  def image_states(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Maps normalised [B, S, S, 3] to what its head pools, [B, E]."""
    vision = dataclasses.replace(self.vision, dtype=self.dtype)
    x = vision.features(params, pixels)  # [B, T, D]
    params, d = params["head"], self.vision.width
    # One query, learned, attends to all patches.
    probe = params["probe"].astype(self.dtype)
    probe = jnp.broadcast_to(probe, (x.shape[0], 1, d))
    # Queries, keys and values are one layer there.
    project = layers.Linear(3 * d, self.dtype)
    weights = params["attention"]
    q = layers.apply(project, weights["in_proj"], probe)[..., :d]  # [B, 1, D]
    rest = layers.apply(project, weights["in_proj"], x)[..., d:]
    k, v = jnp.split(rest, 2, axis=-1)  # [B, T, D] each
    h = attention.self_attention(q, k, v, self.vision.num_heads)
    h = layers.apply(layers.Linear(d, self.dtype), weights["out_proj"], h)
    norm = layers.layer_norm(self.vision.norm_epsilon, self.dtype)
    h += layers.apply(
      self._head_mlp(),
      params["mlp"],
      layers.apply(norm, params["layernorm"], h),
    )
    return h[:, 0]  # [B, E]

  def text_states(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Maps ids and mask [B, W] to the last position's states [B, E]."""
    length = ids.shape[1]
    tokens = jnp.asarray(params["token_embedding"]["embedding"], self.dtype)
    positions = params["position_embedding"]["embedding"].astype(self.dtype)
    x = tokens[ids] + positions[None, :length]  # [B, W, D]
    # Not causal, unlike CLIP's.
    mask = jnp.broadcast_to(mask[:, None], (*mask.shape, length))
    x = self.text.encode(params["layers"], x, mask, self.dtype)
    x = self.text.norm(params["final_layer_norm"], x[:, -1], self.dtype)
    head = layers.Linear(self.embed_dim, self.dtype)
    return layers.apply(head, params["head"], x)

  def _head_mlp(self) -> MLP:
    return MLP(self.vision.mlp_width, self.vision.activation, self.dtype)

  def _init_head(self, key: jax.Array) -> PyTree:
    keys = jax.random.split(key, 4)
    d = self.vision.width
    x = jnp.zeros((1, 1, d))

    def linear(key, width):
      return layers.Linear(width, "float32").init(key, x)["params"]

    return {
      "probe": 0.02 * jax.random.normal(keys[0], (1, 1, d)),
      "attention": {
        "in_proj": linear(keys[1], 3 * d),
        "out_proj": linear(keys[2], d),
      },
      "layernorm": {"scale": jnp.ones(d), "bias": jnp.zeros(d)},
      "mlp": self._head_mlp().init(keys[3], x)["params"],
    }
