"""What tests are made of fits together."""

import jax
import numpy as np
from PIL import Image
import pytest

from genrec_jax import testing
from genrec_jax.core import sharding, tree


@pytest.mark.parametrize("size", [16, 32])
def test_tiny_models_fit_their_images(size):
  model, clip = testing.tiny_janus(size), testing.tiny_clip(size)
  assert model.image_tokens == testing.IMAGE_TOKENS
  params = testing.random_params(model, 0, 0.1)
  codes = np.zeros((2, 3, testing.IMAGE_TOKENS), np.int32)
  images = jax.eval_shape(model.decode_pixels, params, codes)
  assert images.shape == (2, 3, size, size, 3)
  params = testing.random_params(clip, 0, 0.1)
  assert jax.eval_shape(clip.embed_images, params, images).shape == (2, 3, 8)


def test_random_parameters_are_like_those_of_init():
  model = testing.tiny_clip()
  expected = jax.eval_shape(model.init, jax.random.key(0))
  found = testing.random_params(model, 0, 0.5)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), expected)
  )
  values = np.concatenate([x.ravel() for x in jax.tree.leaves(found)])
  assert values.std() == pytest.approx(0.5, rel=0.05)
  twice = testing.amplified(found, 2.0)
  assert twice["logit_scale"] == 2 * found["logit_scale"]


@pytest.mark.parametrize("name", testing.FAMILIES)
def test_a_batch_holds_as_many_images_as_placeholders(name):
  model = testing.FAMILIES[name].model
  batch = testing.random_batch(3, model=model)
  slots = (batch.prompt.ids == testing.IMAGE).sum(1)
  assert (slots == batch.history.shape[1] * model.prompt_tokens).all()
  assert batch.prompt.images.shape[2] == model.read_size
  begin = batch.prompt.ids[:, -len(model.image_begin) :]
  np.testing.assert_array_equal(begin, [model.image_begin] * 3)
  other = testing.random_batch(3, seed=1, model=model)
  assert (other.prompt.ids != batch.prompt.ids).any()


def test_each_family_has_the_rules_and_patterns_of_its_parameters():
  for family in testing.FAMILIES.values():
    shapes = jax.eval_shape(family.model.init, jax.random.key(0))
    sharding.specs(family.rules, shapes)  # raises where they do not fit
    for patterns in (family.trainable, family.tuned):
      tree.select(shapes, patterns)


def test_images_are_read_as_different_codes():
  model = testing.tiny_emu3()
  params = testing.tiny_params(model)
  images = testing.random_batch(4, model=model).prompt.images
  codes = jax.jit(model.read_images)(params, images)[..., 0]
  assert len(np.unique(codes)) >= 4


@pytest.mark.parametrize(
  "make", [testing.janus_tokenizer, testing.word_tokenizer]
)
def test_special_tokens_are_the_first_of_every_vocabulary(make):
  tokens = list(testing.SPECIAL_TOKENS.values())
  assert make().convert_tokens_to_ids(tokens) == list(range(len(tokens)))


def test_the_processor_makes_prompts_and_images():
  processor = testing.TinyProcessor()
  ids = processor.prompt_ids(["red", "red on red"], testing.INSTRUCTION)
  assert ids[0] == testing.BOS
  assert ids[-1] == testing.BOI
  assert ids.count(testing.IMAGE) == 2 * testing.IMAGE_TOKENS
  wide = Image.new("RGB", (64, 32), "white")
  padded, cropped = processor.pixels(wide), processor.crop(wide)
  assert padded.shape == cropped.shape == (32, 32, 3)
  assert (cropped == 255).all()
  assert (padded[0] == 127).all()
