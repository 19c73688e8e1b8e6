import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.evals import compiled, held_out
from genrec_jax.evals.judge import Judge


def test_images_of_devices_and_of_the_host_are_embedded_alike(monkeypatch):
  clip = testing.tiny_clip(image_size=32)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:2])
  judge = Judge(clip, testing.random_params(clip, 0, 0.1), None, 0.9, mesh)
  images = np.random.default_rng(0).integers(
    256, size=(4, 2, 32, 32, 3), dtype=np.uint8
  )
  embeds = np.asarray(judge.embed_images(images))
  assert embeds.shape[:2] == (4, 2)
  np.testing.assert_allclose(np.linalg.norm(embeds, axis=-1), 1, rtol=1e-5)
  pixels = jnp.float32(images) / 255
  expected = jax.jit(clip.embed_images)(judge.params, pixels)
  np.testing.assert_allclose(embeds, expected, atol=1e-5)
  # Those on devices are read where they lie, not put there once more.
  monkeypatch.delattr(compiled.distributed, "put_global")
  rows = jax.NamedSharding(mesh, sharding.BATCH)
  there = judge.embed_images(jax.device_put(images, rows))
  np.testing.assert_array_equal(there, embeds)


@pytest.mark.parametrize("known", [True, False])
def test_the_truth_takes_the_place_of_the_threshold(judge, batches, known):
  """Exact copies by CLIP of another colour are none by the truth."""
  (held, *_) = held_out.prepare(batches(known=known), judge.embed_targets, 4)
  copies = np.asarray(held.batch.history)[:, :1]
  shown = None if held.truth is None else held.truth.history[:, :1] + 1
  found = judge.score(held, judge.embed_images(copies), shown)
  assert all(values.shape == (4,) for values in found.values())
  assert (found["copy_rate"] == (0 if known else 1)).all()
  assert ("preference_match" in found) == known
