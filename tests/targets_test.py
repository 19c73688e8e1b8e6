"""Targets: each title, history and future embedded in its place."""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import Batch, Prompt
from genrec_jax.targets import embed_targets


def batch(prompts=2, items=3, ahead=2, size=8):
  rng = np.random.default_rng(0)

  def images(n):
    return rng.integers(0, 256, (prompts, n, size, size, 3), np.uint8)

  return Batch(
    prompt=Prompt(
      ids=np.zeros((prompts, 4), np.int32),
      mask=np.ones((prompts, 4), bool),
      images=np.zeros((prompts, items, size, size, 3), np.uint8),
    ),
    history=images(items),
    history_mask=np.array([[True, True, False]] * prompts),
    future=images(ahead),
    future_mask=np.array([[True, False]] * prompts),
    title_ids=np.tile(np.array([1, 5, 9, 7], np.int32), (prompts, 1)),
    title_mask=np.tile(np.array([True, True, True, False]), (prompts, 1)),
  )


@struct.dataclass
class MeanColour:
  """A reward model that embeds an image as its mean colour."""

  def embed_images(self, params, pixels):
    assert pixels.dtype == jnp.float32
    return (params * pixels.mean((-3, -2))).astype(jnp.bfloat16)

  def embed_texts(self, params, ids, mask):
    total = jnp.where(mask, ids, 0).sum(-1)
    return jnp.stack([total] * 3, -1).astype(jnp.bfloat16)


def test_targets_are_each_image_in_its_place():
  given_batch = batch()
  targets = embed_targets(MeanColour(), 1.0, given_batch)
  for name, images in (
    ("history", given_batch.history),
    ("future", given_batch.future),
  ):
    got = getattr(targets, name)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, (images / 255.0).mean((-3, -2)), rtol=1e-2)
  np.testing.assert_array_equal(targets.text, np.full((2, 3), 15.0))
  np.testing.assert_array_equal(targets.history_mask, given_batch.history_mask)
  np.testing.assert_array_equal(targets.future_mask, given_batch.future_mask)


def test_targets_are_constants():
  @struct.dataclass
  class Learned(MeanColour):
    def embed_texts(self, params, ids, mask):
      return params * super().embed_texts(params, ids, mask)

  def total(scale):
    targets = embed_targets(Learned(), scale, batch())
    return targets.history.sum() + targets.future.sum() + targets.text.sum()

  assert jax.grad(total)(1.0) == 0
