"""Judge in DINOv2's format: told attributes from images, never a title.

The reward's CLIP learns from titles; what it and this judge agree on is not
owed to one training.
"""

from pathlib import Path
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.hf import dinov2 as hf_dinov2
from genrec_jax.hf import write_model
from genrec_jax.hf.rules import to_hf
from genrec_jax.models.dinov2 import Dinov2
from genrec_jax.models.pixels import Preprocessing
from genrec_jax.models.tower import Tower
from genrec_jax.nn import layers

from .training import epochs, fit, renders, write_json

_SIDE = world.IMAGE_SIZE
# 170,000 parameters, 0.33 MiB in float16.
JUDGE = Dinov2(
  vision=Tower(64, 256, 3, 4, "gelu", 1e-6, layer_scale=True),
  preprocessing=Preprocessing(
    _SIDE, _SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  ),
  image_size=_SIDE,
  patch_size=8,
)
# Of a cosine: as large as it takes for a right answer to be certain.
_SCALE = 16.0


def train(seed: int, steps: int, batch: int = 192) -> PyTree:
  """Trains to tell the five attributes of an image, each by a cosine.

  Embeddings come to lie near the sum of their attributes' directions, so that
  the cosine of two images grows with the number of attributes they share.
  """
  truth = world.attributes(np.arange(world.NUM_ITEMS))  # [I, 5]
  key = jax.random.key(seed)
  params = {
    "judge": JUDGE.init(key),
    # A direction for each value of each attribute.
    "directions": jax.random.normal(
      jax.random.fold_in(key, 1), (sum(world.COUNTS), JUDGE.embed_dim)
    ),
  }

  def loss_fn(params, batch, key):
    images, attributes = batch
    pixels = damaged(images.astype(jnp.float32) / 255, key)
    embeds = JUDGE.embed_images(params["judge"], pixels)
    logits = _SCALE * embeds @ layers.unit(params["directions"]).T
    cross = optax.softmax_cross_entropy_with_integer_labels
    splits = np.cumsum(world.COUNTS)[:-1]
    parts = list(enumerate(jnp.split(logits, splits, axis=-1)))
    loss = sum(cross(part, attributes[:, a]).mean() for a, part in parts)
    right = [jnp.argmax(part, -1) == attributes[:, a] for a, part in parts]
    return loss, {"all_right": jnp.mean(jnp.all(jnp.stack(right), 0))}

  params = fit(
    loss_fn,
    params,
    epochs((renders(), truth), batch, seed),
    steps,
    lr=2e-3,
    key=key,
    name="judge",
    weight_decay=0.05,
  )
  return params["judge"]


def damaged(pixels: jax.Array, key: jax.Array) -> jax.Array:
  """Adds the noise and blur of generated images to [B, h, w, 3] in [0, 1]."""
  noise, level, blur = jax.random.split(key, 3)
  shape = (len(pixels), 1, 1, 1)
  mean = jax.lax.reduce_window(
    pixels, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
  )
  share = jax.random.uniform(blur, shape)
  pixels = (1 - share) * pixels + share * mean / 9
  scale = 0.1 * jax.random.uniform(level, shape)
  return jnp.clip(pixels + scale * jax.random.normal(noise, pixels.shape), 0, 1)


def write(folder: Path, params: PyTree) -> None:
  """Writes the judge in HF format, float16."""
  config, preprocessor = hf_dinov2.config_to_hf(JUDGE)
  with tempfile.TemporaryDirectory() as source:
    write_json(Path(source, "preprocessor_config.json"), preprocessor)
    write_model.write(
      folder,
      config,
      to_hf(hf_dinov2.rules(JUDGE), jax.device_get(params)),
      dtype="float16",
      source=source,
    )
