"""What tests are made of fits together."""

import jax
import numpy as np
from PIL import Image
import pytest

from genrec_jax import testing


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


def test_a_batch_holds_as_many_images_as_placeholders():
  batch = testing.random_batch(3)
  slots = (batch.prompt.ids == testing.IMAGE).sum(1)
  assert (slots == batch.history.shape[1] * testing.IMAGE_TOKENS).all()
  other = testing.random_batch(3, seed=1)
  assert (other.prompt.ids != batch.prompt.ids).any()


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
