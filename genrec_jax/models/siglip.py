"""SigLIP vision tower of Janus: images to one feature vector per patch.

Same function as `JanusVisionModel` of transformers 5.23; NHWC. Letters: B
images, T patches, L layers, D width.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core.types import PyTree
from genrec_jax.nn import layers
from genrec_jax.nn.encoder import EncoderBlock

# As the language model: 'model' splits heads and MLP width, 'data' the rest.
RULES = (
  (r"patch_embedding/kernel", P(None, None, None, "model")),
  (r"position_embedding/embedding", P(None, "model")),
  (r"layers/self_attn/[qkv]_proj/kernel", P(None, "data", "model")),
  (r"layers/self_attn/projection_layer/kernel", P(None, "model", "data")),
  (r"layers/mlp/fc1/kernel", P(None, "data", "model")),
  (r"layers/mlp/fc2/kernel", P(None, "model", "data")),
  (r"layers/(self_attn|mlp)/\w+/bias", P()),
  (r"layers/layer_norm[12]/(scale|bias)", P()),
  (r"patch_embedding/bias", P()),
  (r"post_layernorm/(scale|bias)", P()),
)


@dataclasses.dataclass(frozen=True)
class Siglip:
  """Static configuration and the functions of the vision tower.

  The defaults are those of Janus-Pro, SigLIP-Large at 384 pixels.
  """

  width: int = 1024  # D
  mlp_width: int = 4096
  num_layers: int = 24  # L
  num_heads: int = 16
  image_size: int = 384  # pixels per side
  patch_size: int = 16
  activation: str = "gelu"
  attention_bias: bool = True  # of queries, keys and values
  output_name: str = "projection_layer"  # see `EncoderBlock`; Janus' own
  norm_epsilon: float = 1e-6
  dtype: str = "float32"  # compute type; parameters have their own
  remat: str = "none"  # see `layers.scan_stack`

  @property
  def num_patches(self) -> int:
    """T: features per image."""
    return (self.image_size // self.patch_size) ** 2

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 3)
    pixels = jnp.zeros((1, self.image_size, self.image_size, 3))
    x = jnp.zeros((1, self.num_patches, self.width))
    table = nn.initializers.normal(0.02)(
      keys[1], (self.num_patches, self.width)
    )
    return {
      "patch_embedding": self._patches().init(keys[0], pixels)["params"],
      "position_embedding": {"embedding": table},
      "layers": layers.init_stack(self.block(), keys[2], self.num_layers, x),
      "post_layernorm": {
        "scale": jnp.ones(self.width),
        "bias": jnp.zeros(self.width),
      },
    }

  def features(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Encodes images.

    Args:
      params: as from `init`.
      pixels: [B, h, w, 3] in [-1, 1], h = w = `image_size`.

    Returns:
      [B, T, D], the patches in rows from the top left, after the final norm.

    Raises:
      ValueError: images of another size.
    """
    expected = (self.image_size, self.image_size, 3)
    if pixels.shape[1:] != expected:
      raise ValueError(
        f"images of shape {pixels.shape[1:]}; the vision tower expects"
        f" {expected}; resize them first"
      )
    x = layers.apply(self._patches(), params["patch_embedding"], pixels)
    x = x.reshape(x.shape[0], self.num_patches, self.width)  # [B, T, D]
    table = params["position_embedding"]["embedding"]
    x += table.astype(self.dtype)[None]  # learned, one for each place

    def step(x, layer):
      return layers.apply(self.block(), layer, x), None

    x, _ = layers.scan_stack(step, x, params["layers"], self.remat)
    norm = layers.layer_norm(self.norm_epsilon, self.dtype, "post_layernorm")
    return layers.apply(norm, params["post_layernorm"], x)

  def block(self) -> EncoderBlock:
    """Returns one encoder layer, for parameters of one layer."""
    return EncoderBlock(
      self.mlp_width,
      self.num_heads,
      self.activation,
      self.norm_epsilon,
      self.dtype,
      qkv_bias=self.attention_bias,
      output_name=self.output_name,
    )

  def _patches(self) -> nn.Conv:
    size = (self.patch_size, self.patch_size)
    return nn.Conv(
      self.width, size, strides=size, padding="VALID", dtype=self.dtype
    )
