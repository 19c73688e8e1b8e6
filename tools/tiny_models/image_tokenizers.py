"""Image tokenizers of 32-pixel images: 16 codes, each of one attribute.

Code number i of an image tells its attribute number i mod 5, in the order of
the world's, so that no code holds at once what a history tells apart. (Codes
that are learned without names become hashes of whole images: two of them tell
most items apart, and none tells the colour.)
"""

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.models.image_tokenizer import ImageTokenizer
from genrec_jax.models.movqgan import MoVQGAN
from genrec_jax.models.vqgan import VQGAN
from genrec_jax.nn import layers

from .training import epochs, fit, renders

_CODES = 32  # the attributes have 26 values
JANUS = VQGAN(
  embed_dim=8,
  num_embeddings=_CODES,
  latent_channels=32,
  # 32 norm groups are fixed by the format: with 32 channels each would be
  # normalised by itself, and plain colours lost. No block beside the
  # resampling keeps it as cheap.
  base_channels=64,
  channel_multiplier=(1, 1, 1, 1),
  num_res_blocks=0,
)
EMU3 = MoVQGAN(
  codebook_size=_CODES,
  embed_dim=16,
  latent_channels=16,
  # Norms are of single channels, but those of the decoder are steered by the
  # codes, with colours. Half a megabyte; twice as wide would be two.
  base_channels=32,
  channel_multiplier=(1, 1, 1, 1),
  num_res_blocks=0,
)
_SIDE = world.IMAGE_SIZE // JANUS.downsampling


def item_codes() -> np.ndarray:
  """Returns the codes that items are to have: [2880, 4, 4] int32."""
  attrs = world.attributes(np.arange(world.NUM_ITEMS))
  first = np.cumsum([0, *world.COUNTS[:-1]])  # code of each one's first value
  told = np.arange(_SIDE**2).reshape(_SIDE, _SIDE) % len(world.COUNTS)
  return (attrs + first)[:, told].astype(np.int32)


def train(
  tokenizer: VQGAN | MoVQGAN, seed: int, steps: int, batch: int = 32
) -> PyTree:
  """Trains the encoder to tell the codes and the decoder to show them."""
  key = jax.random.key(seed)
  every = jnp.arange(tokenizer.codebook_size)

  def loss_fn(params, rows, key):
    del key
    images, codes = rows
    pixels = images.astype(jnp.float32) / 127.5 - 1
    z = layers.unit(tokenizer.latents(params, pixels))  # [B, h', w', E]
    cosines = jnp.einsum("bhwe,ce->bhwc", z, tokenizer.lookup(params, every))
    cross = optax.softmax_cross_entropy_with_integer_labels
    told = cross(cosines / 0.1, codes).mean()
    decoded = tokenizer.decode(params, codes)
    error = jnp.abs(decoded - pixels).mean()
    return error + 0.1 * told, {"error": error, "told": told}

  def project(params):
    # Of one length, the nearest code is that of the largest cosine, whether a
    # tokenizer normalises latents or not.
    book = layers.unit(params["quantizer"]["embedding"])
    return params | {"quantizer": {"embedding": book}}

  params = fit(
    loss_fn,
    project(tokenizer.init(key)),
    epochs((renders(), item_codes()), batch, seed),
    steps,
    lr=2e-3,
    key=key,
    name="image tokenizer",
    project=project,
  )
  share = share_read_right(tokenizer, params)
  logging.info("attributes read right of reconstructions: %s", share)
  return params


def share_read_right(tokenizer: ImageTokenizer, params: PyTree) -> np.ndarray:
  """Returns the share of items read right of reconstructions, by attribute."""
  images = renders()
  reconstruct = jax.jit(
    lambda x: tokenizer.decode(
      params, tokenizer.encode(params, x.astype(jnp.float32) / 127.5 - 1)
    )
  )
  pixels = np.concatenate([reconstruct(x) for x in np.split(images, 10)])
  pixels = np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
  truth = world.attributes(np.arange(world.NUM_ITEMS))
  return (world.read(pixels) == truth).mean(0)
