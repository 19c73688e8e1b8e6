"""SigLIP against transformers', on sizes that fit nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import torch

from genrec_jax import testing
from tests.hf import random_encoders

# As is asked of the ports; unit vectors and states are of order one.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=list(random_encoders.SIGLIP))
def pair(request, tmp_path_factory):
  """Returns (torch model, image processor, our model, our params)."""
  theirs, processor = random_encoders.siglip(request.param)
  folder = tmp_path_factory.mktemp("siglip")
  random_encoders.save(folder, theirs, processor, testing.word_tokenizer())
  return theirs, processor, *random_encoders.opened(folder)


def unit(vectors):
  vectors = vectors.numpy()
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_images_match(pair):
  theirs, _, ours, params = pair
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(2, 3, 40, 33, 3)).astype(np.float32)
  found = jax.jit(ours.embed_images)(params, images)
  assert found.shape == (2, 3, ours.embed_dim)
  pixels = np.asarray(ours.preprocessing(images.reshape(-1, 40, 33, 3)))
  with torch.no_grad():
    expected = theirs.get_image_features(
      torch.tensor(pixels.transpose(0, 3, 1, 2))
    ).pooler_output
  np.testing.assert_allclose(
    found, unit(expected).reshape(found.shape), **CLOSE
  )
  states = jax.jit(ours.image_states)(params["vision_model"], pixels)
  scale = np.abs(expected.numpy()).max()
  np.testing.assert_allclose(states / scale, expected / scale, **CLOSE)


def texts(ours):
  """Returns ids [4, W] and masks: padded, full, and one that hides padding."""
  rng = np.random.default_rng(0)
  ids = rng.integers(2, ours.vocab_size, (4, ours.text_positions))
  ids[0, 3:] = ids[3, 5:] = 1
  mask = np.ones(ids.shape, bool)
  mask[3, 5:-1] = False  # the last position is read, so it stays
  return ids, mask


def test_texts_match(pair):
  theirs, _, ours, params = pair
  ids, mask = texts(ours)
  found = jax.jit(ours.embed_texts)(params, ids, mask)
  for rows, given in (
    (slice(3), None),  # as in training: padding is read
    (slice(3, 4), torch.tensor(mask[3:].astype(int))),
  ):
    with torch.no_grad():
      expected = theirs.get_text_features(
        torch.tensor(ids[rows]), attention_mask=given
      ).pooler_output
    np.testing.assert_allclose(found[rows], unit(expected), **CLOSE)


def test_similarities_match(pair):
  theirs, _, ours, params = pair
  ids, _ = texts(ours)
  images = np.random.default_rng(1).uniform(size=(3, 31, 31, 3))
  images = images.astype(np.float32)
  pixels = np.asarray(ours.preprocessing(images)).transpose(0, 3, 1, 2)
  with torch.no_grad():
    theirs.logit_scale.fill_(1.5)
    theirs.logit_bias.fill_(-0.5)
    expected = theirs(
      input_ids=torch.tensor(ids), pixel_values=torch.tensor(pixels)
    ).logits_per_text.numpy()
  found = np.exp(1.5) * np.asarray(
    ours.embed_texts(params, ids, np.ones(ids.shape, bool))
    @ ours.embed_images(params, images).T
  )
  np.testing.assert_allclose(found - 0.5, expected, atol=1e-4)


def test_a_text_s_vector_is_read_at_the_last_position(pair):
  *_, ours, params = pair
  ids, mask = texts(ours)
  embed = jax.jit(ours.embed_texts)
  stacked = embed(params, np.stack([ids] * 2), np.stack([mask] * 2))
  flat = embed(params, ids, mask)
  np.testing.assert_allclose(stacked[1], flat, atol=1e-6)
  other = ids.copy()
  other[:, -1] = 3
  assert np.abs(embed(params, other, mask) - flat).max() > 1e-3
  longer = np.ones((1, ours.text_positions + 1), int)
  with pytest.raises(ValueError, match="expected at most 9"):
    ours.embed_texts(params, longer, longer > 0)


def test_pixels_match_the_processor(pair):
  _, processor, ours, _ = pair
  for shape in ((40, 33), (16, 61), (31, 31)):
    image = random_encoders.image(*shape)
    expected = processor(Image.fromarray(image), return_tensors="np")
    expected = expected["pixel_values"][0].transpose(1, 2, 0)
    found = ours.preprocessing(image[None] / np.float32(255))[0]
    assert found.shape == (ours.vision.image_size, ours.vision.image_size, 3)
    # Pillow rounds to whole levels after each of its two passes.
    level = 1 / 255 / 0.5
    np.testing.assert_allclose(found, expected, atol=1.1 * level, rtol=0)


def test_in_bfloat16_it_computes_in_that(pair):
  *_, ours, params = pair
  half = dataclasses.replace(ours, dtype="bfloat16")
  images = random_encoders.image(31, 31)[None] / np.float32(255)
  found = half.embed_images(params, images)
  assert found.dtype == jnp.float32
  exact = ours.embed_images(params, images)
  gap = np.abs(found - exact).max()
  assert 1e-5 < gap < 0.05
