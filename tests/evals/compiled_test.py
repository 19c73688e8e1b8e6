import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.evals import compiled, results
from genrec_jax.evals.encoders import Encoder
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.evals.held_out import prepare
from genrec_jax.evals.panel import Panel
from genrec_jax.sampling import Sampling

KEY = jax.random.key(0)


class _Clip:
  """Embeds by two fixed projections; counts how often it is traced."""

  def __init__(self):
    self.traces = []

  def embed_images(self, params, pixels):
    self.traces.append(pixels.shape)
    flat = pixels.reshape(*pixels.shape[:-3], -1)
    embeds = flat[..., : params["image"].shape[0]] @ params["image"]
    return embeds / jnp.linalg.norm(embeds, axis=-1, keepdims=True)

  def embed_texts(self, params, ids, mask):
    del mask
    embeds = params["text"][ids[:, 0]]
    return embeds / jnp.linalg.norm(embeds, axis=-1, keepdims=True)


@pytest.mark.parametrize("devices", [1, 4])
def test_one_compilation_serves_all_rows(
  devices, batches, catalogue, tmp_path, monkeypatch, caplog
):
  """Three models, shuffled histories, a short last batch, random items."""
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices])
  generated = []

  def generate_images(model, params, prompt, key, sampling):
    del model
    generated.append(prompt.ids.shape)
    # Without it no activation would be pinned to the batch's layout.
    assert not jax.sharding.get_abstract_mesh().empty
    shape = (len(prompt.ids), sampling.num_samples, 32, 32, 3)
    # Beyond [0, 1], as a decoder's output may be.
    return 2 * jax.random.uniform(key, shape) - params["shift"]

  monkeypatch.setattr(compiled, "generate_images", generate_images)
  monkeypatch.setattr(
    compiled, "rollout_params", lambda model, params, layout, words: params
  )
  clip = _Clip()
  keys = jax.random.split(KEY)
  clip_params = {
    "image": jax.random.normal(keys[0], (64, 8)),
    "text": jax.random.normal(keys[1], (10, 8)),
  }
  panel = Panel(
    (
      Encoder("clip", clip, clip_params, None, mesh),
      Encoder("eye", clip, clip_params, None, mesh),
    ),
    mesh,
  )
  test = prepare(batches(known=True), panel, 4)
  evaluator = Evaluator(
    compiled.make_generate(None, Sampling(num_samples=2), mesh=mesh),
    panel,
    test,
    catalogue,
    num_samples=2,
    seed=0,
    copy_thresholds={"clip": 0.95},
  )
  models = [
    (name, {"shift": jnp.float32(shift)})
    for name, shift in (("base", 0.0), ("sft", 0.5), ("rl", 1.0))
  ]
  with jax.log_compiles():
    comparison = evaluator.compare(models)
  # Images of the devices and of the host, too: one layout, one compilation.
  names = re.findall(r"Compiling jit\((\w+)\)", caplog.text)
  assert names.count("generate") == names.count("embed_images") == 1, names
  summary = results.write(str(tmp_path), evaluator, comparison)
  assert generated == [(4, 6)]
  # Each of the two encoders once.
  assert clip.traces == [(4, 5 + 3, 32, 32, 3)] * 2 + [(4, 2, 32, 32, 3)] * 2
  assert summary["models"]["real_next_item"]["preference_match"]["mean"] > 0.6
  pixels = evaluator.generate(models[2][1], test[0].batch.prompt, KEY)
  assert pixels.dtype == np.uint8
  assert pixels.shape == (4, 2, 32, 32, 3)
  assert int(pixels.min()) == 0
  assert int(pixels.max()) >= 250


def test_a_temperature_is_an_argument_of_the_graph(monkeypatch, caplog):
  def generate_images(model, params, prompt, key, sampling):
    del model, key
    assert sampling.num_samples == 2
    shape = (len(prompt), sampling.num_samples, 32, 32, 3)
    return jnp.full(shape, params["level"] / sampling.temperature)

  monkeypatch.setattr(compiled, "generate_images", generate_images)
  monkeypatch.setattr(
    compiled, "rollout_params", lambda model, params, layout, words: params
  )
  generate = compiled.make_generate(
    None,
    Sampling(num_samples=2, temperature=2.0),
    mesh=mesh_lib.make_mesh(devices=jax.devices()[:1]),
  )
  params, rows = {"level": jnp.float32(0.4)}, np.zeros((3, 1), np.float32)
  with jax.log_compiles():
    found = [generate(params, rows, KEY, *t) for t in ((), (0.5,), (4,))]
  assert [int(images[0, 0, 0, 0, 0]) for images in found] == [51, 204, 26]
  names = re.findall(r"Compiling jit\((\w+)\)", caplog.text)
  assert names.count("generate") == 1


class _Coarse:
  """An image tokenizer of three codes an image: its mean colour, in tenths."""

  image_size = 32

  def encode_pixels(self, params, pixels):
    assert pixels.dtype == jnp.float32
    return jnp.round(params["levels"] * pixels.mean((-3, -2))).astype(jnp.int32)

  def decode_pixels(self, params, codes):
    colour = codes[..., None, None, :] / params["levels"]
    return jnp.broadcast_to(colour, (*codes.shape[:-1], 32, 32, 3))


def test_reconstruct_goes_through_the_models_own_tokenizer():
  images = np.full((2, 32, 32, 3), 255, np.uint8)
  images[1] = [0, 100, 200]  # .39 and .78: four and eight tenths
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  reconstruct = compiled.make_reconstruct(_Coarse(), mesh=mesh)
  found = np.asarray(reconstruct({"levels": 10.0}, images))
  assert found.dtype == np.uint8
  assert found.shape == images.shape
  assert (found[0] == 255).all()
  assert (found[1] == [0, 102, 204]).all()
  half = np.asarray(reconstruct({"levels": 1.0}, images))
  assert (half[1] == [0, 0, 255]).all()
