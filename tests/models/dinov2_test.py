"""DINOv2 against transformers', on sizes that fit nothing."""

import jax
import numpy as np
from PIL import Image
import pytest
import torch

from genrec_jax.models import dinov2
from tests import rounding
from tests.hf import random_encoders

# The sums that a value passes, see tests/rounding.py: in each of three layers
# two norms, four products, a score, the softmax and the sum over keys.
TERMS = 3 * (5 * 26 + 2 * 80 + 8 + 2 * 37)


@pytest.fixture(scope="module", params=list(random_encoders.DINOV2))
def pair(request, tmp_path_factory):
  """Returns (torch model, image processor, our model, our params)."""
  theirs, processor = random_encoders.dinov2(request.param)
  folder = tmp_path_factory.mktemp("dinov2")
  random_encoders.save(folder, theirs, processor)
  return theirs, processor, *random_encoders.opened(folder)


def test_states_match(pair):
  theirs, _, ours, params = pair
  side = ours.preprocessing.crop
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(3, side, side, 3)).astype(np.float32)
  with torch.no_grad():
    expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output
  with jax.default_matmul_precision("highest"):
    found = jax.jit(ours.class_states)(params, pixels)
  rounding.assert_close(found, expected.numpy(), terms=TERMS)
  np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_unit_vectors_of_images_of_any_size(pair):
  theirs, _, ours, params = pair
  images = random_encoders.image(40, 33)[None, None] / np.float32(255)
  images = np.repeat(images, 2, 1) * np.array([1, 0.5]).reshape(1, 2, 1, 1, 1)
  found = np.asarray(jax.jit(ours.embed_images)(params, images))
  assert found.shape == (1, 2, ours.embed_dim)
  np.testing.assert_allclose(np.sum(found**2, -1), 1, atol=1e-6)
  pixels = np.asarray(ours.preprocessing(images[0])).transpose(0, 3, 1, 2)
  with torch.no_grad():
    expected = theirs(torch.tensor(pixels)).pooler_output.numpy()
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(found[0], expected, atol=1e-5, rtol=0)


def test_pixels_match_the_processor(pair):
  _, processor, ours, _ = pair
  for shape in ((40, 33), (23, 61), (29, 29)):
    image = random_encoders.image(*shape)
    expected = processor(Image.fromarray(image), return_tensors="np")
    expected = expected["pixel_values"][0].transpose(1, 2, 0)
    found = ours.preprocessing(image[None] / np.float32(255))[0]
    # Pillow rounds to whole levels after each of its two passes.
    level = 1 / 255 / min(random_encoders.STD)
    np.testing.assert_allclose(found, expected, atol=1.1 * level, rtol=0)


def test_bicubic_weights_as_torch_has_them():
  rng = np.random.default_rng(0)
  for old, new in ((7, 4), (2, 6), (5, 5), (37, 16), (1, 3)):
    values = rng.normal(size=(1, 1, old, old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
      torch.tensor(values), size=(new, new), mode="bicubic"
    )
    weights = dinov2.bicubic_weights(old, new)
    found = weights @ values[0, 0] @ weights.T
    np.testing.assert_allclose(found, expected[0, 0], atol=1e-5)


def test_it_reads_no_text(pair):
  *_, ours, params = pair
  with pytest.raises(ValueError, match="no text tower"):
    ours.embed_texts(params, np.ones((1, 2), int), np.ones((1, 2), bool))
