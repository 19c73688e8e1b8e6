"""Image tokenizer of 32-pixel images: 16 codes of a book of 512."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.models.vqgan import VQGAN

from .training import epochs, fit, renders

VQ = VQGAN(
  embed_dim=8,
  num_embeddings=512,
  latent_channels=32,
  # 32 norm groups are fixed by the format: with 32 channels each would be
  # normalised by itself, and plain colours lost. No block beside the
  # resampling keeps it as cheap.
  base_channels=64,
  channel_multiplier=(1, 1, 1, 1),
  num_res_blocks=0,
)


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def spherical_kmeans(
  points: np.ndarray, k: int, rounds: int, seed: int
) -> np.ndarray:
  """Clusters unit vectors [n, E] by cosine: unit centres [k, E]."""
  rng = np.random.default_rng(seed)
  centres = points[rng.choice(len(points), k, replace=False)]
  for _ in range(rounds):
    nearest = np.argmax(points @ centres.T, -1)
    sums = np.zeros_like(centres)
    np.add.at(sums, nearest, points)
    empty = np.bincount(nearest, minlength=k) == 0
    # An empty cluster restarts at the points served worst.
    worst = np.argsort(np.max(points @ centres.T, -1))[: empty.sum()]
    sums[empty] = points[worst]
    centres = sums / np.linalg.norm(sums, axis=-1, keepdims=True)
  return centres


def train(seed: int, warm_steps: int, steps: int, batch: int = 32) -> PyTree:
  """Trains first without the quantiser, then with k-means centres as codes."""
  images = renders()
  key = jax.random.key(seed)
  batches = epochs((images,), batch, seed)

  def pixels_of(images):
    return images.astype(jnp.float32) / 127.5 - 1

  def warm_loss(params, batch, key):
    pixels = pixels_of(batch[0])
    z = _unit(VQ.latents(params, pixels))
    # Noise of about a cell's size spreads the latents for the codes to come.
    z = _unit(z + 0.05 * jax.random.normal(key, z.shape))
    error = jnp.abs(VQ.decode_latents(params, z) - pixels).mean()
    return error, {}

  def loss_fn(params, batch, key):
    del key
    pixels = pixels_of(batch[0])
    z = _unit(VQ.latents(params, pixels))
    codes = VQ.quantize(params, jax.lax.stop_gradient(z))
    entries = VQ.lookup(params, codes)
    commit = jnp.sum((z - jax.lax.stop_gradient(entries)) ** 2, -1).mean()
    codebook = jnp.sum((jax.lax.stop_gradient(z) - entries) ** 2, -1).mean()
    # Straight-through: the decoder's gradient reaches the encoder unchanged.
    straight = z + jax.lax.stop_gradient(entries - z)
    error = jnp.abs(VQ.decode_latents(params, straight) - pixels).mean()
    loss = error + 0.1 * commit + 0.3 * codebook
    return loss, {"error": error, "commit": commit}

  def project(params):
    book = _unit(params["quantizer"]["embedding"])
    return params | {"quantizer": {"embedding": book}}

  params = fit(
    warm_loss, VQ.init(key), batches, warm_steps, lr=3e-3, key=key, name="vq-ae"
  )
  latents = jax.jit(lambda x: _unit(VQ.latents(params, pixels_of(x))))
  # Codes start as centres of what there is to quantise: none is left unused.
  points = np.concatenate([latents(x) for x in np.split(images, 10)])
  points = points.reshape(-1, VQ.embed_dim)
  book = spherical_kmeans(points, VQ.num_embeddings, 20, seed)
  params["quantizer"]["embedding"] = jnp.asarray(book)
  return fit(
    loss_fn,
    params,
    batches,
    steps,
    lr=2e-3,
    key=key,
    name="vq",
    project=project,
  )


def share_read_right(params: PyTree) -> np.ndarray:
  """Returns the share of items read right of reconstructions, by attribute."""
  images = renders()
  reconstruct = jax.jit(
    lambda x: VQ.decode(
      params, VQ.encode(params, x.astype(jnp.float32) / 127.5 - 1)
    )
  )
  pixels = np.concatenate([reconstruct(x) for x in np.split(images, 10)])
  pixels = np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
  truth = world.attributes(np.arange(world.NUM_ITEMS))
  return (world.read(pixels) == truth).mean(0)
