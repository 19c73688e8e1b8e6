import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.evals import compiled
from genrec_jax.evals.encoders import Encoder
from genrec_jax.evals.panel import Panel, on_host


@pytest.fixture(scope="module")
def panel():
  clip = testing.tiny_clip(image_size=16)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:2])
  return Panel(
    tuple(
      Encoder(name, clip, testing.random_params(clip, seed, 0.1), None, mesh)
      for seed, name in enumerate(("clip", "eye"))
    ),
    mesh,
  )


def test_images_of_devices_and_of_the_host_are_embedded_alike(
  panel, monkeypatch
):
  images = np.random.default_rng(0).integers(
    256, size=(4, 2, 32, 32, 3), dtype=np.uint8
  )
  found = on_host(panel.embed_images(images))
  assert list(found) == ["clip", "eye"]
  pixels = jnp.float32(images) / 255
  for encoder in panel.encoders:
    embeds = found[encoder.name]
    assert embeds.shape[:2] == (4, 2)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=-1), 1, rtol=1e-5)
    expected = jax.jit(encoder.model.embed_images)(encoder.params, pixels)
    np.testing.assert_allclose(embeds, expected, atol=1e-5)
  # Those on devices are read where they lie, not put there once more.
  monkeypatch.delattr(compiled.distributed, "put_global")
  rows = jax.NamedSharding(panel.mesh, sharding.BATCH)
  there = on_host(panel.embed_images(jax.device_put(images, rows)))
  np.testing.assert_array_equal(there["eye"], found["eye"])


def test_targets_are_each_encoders_own_and_a_judge_reads_no_tokens_of_clip(
  panel,
):
  batch = testing.random_batch(4)
  found = panel.embed_targets(batch)
  assert panel.judges == ("eye",)
  for encoder in panel.encoders:
    history, future = (
      on_host(panel.embed_images(images))[encoder.name]
      for images in (batch.history, batch.future)
    )
    targets = found[encoder.name]
    np.testing.assert_allclose(targets.history, history, atol=1e-5)
    np.testing.assert_allclose(targets.future, future, atol=1e-5)
  assert found["clip"].text.shape == found["clip"].future[:, 0].shape
  assert found["eye"].text is None
  assert panel.embed_titles(["a"]) == {}


def test_a_rater_is_no_judge(panel):
  clip = panel.clip
  rater = dataclasses.replace(clip, name="quality_pick", rates=True)
  rated = Panel((*panel.encoders, rater), panel.mesh)
  assert rated.judges == panel.judges
  assert not panel.raters
  scale = float(clip.params["logit_scale"])
  assert rated.raters == {"quality_pick": pytest.approx(scale)}
