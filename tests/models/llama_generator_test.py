"""What generators of a Llama share: values put at their placeholders."""

import re

import jax
import numpy as np
import pytest

from genrec_jax.core import tree
from genrec_jax.models.llama_generator import placed
from genrec_jax.testing import FAMILIES, random_batch, tiny_params


@pytest.mark.parametrize("shape", [(), (2,)], ids=["tokens", "features"])
def test_the_kth_placeholder_of_a_row_takes_its_kth_value(shape):
  values = np.arange(2 * 3 * np.prod(shape, dtype=int)).reshape(2, 3, *shape)
  slots = np.asarray([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]], bool)
  found = np.asarray(placed(slots, values))
  assert found.shape == (2, 5, *shape)
  np.testing.assert_array_equal(found[0, [0, 2, 3]], values[0])
  np.testing.assert_array_equal(found[1, [2, 4]], values[1, :2])


@pytest.mark.parametrize("name", FAMILIES)
def test_another_compute_type_leaves_the_image_tokenizer_as_it_is(name):
  model = FAMILIES[name].model
  half = model.with_compute(dtype="bfloat16", remat="dots")
  assert type(half) is type(model)
  assert half.tokenizer == model.tokenizer
  assert (half.language.dtype, half.language.remat) == ("bfloat16", "dots")
  back = half.with_compute(dtype="float32")
  assert back == model


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_read_of_images_stands_in_for_them(name):
  model = FAMILIES[name].model
  params, prompt = tiny_params(model), random_batch(2, 0, None, model).prompt
  read = jax.jit(model.read_images)(params, prompt.images)
  assert read.shape[:2] == prompt.images.shape[:2]
  embed = jax.jit(model.embed)
  expected = embed(params, prompt)
  # To the bit, but for how XLA joins what it computes.
  np.testing.assert_allclose(
    embed(params, prompt.replace(images=read)), expected, atol=1e-6
  )
  other = prompt.replace(images=255 - prompt.images)
  assert np.max(np.abs(embed(params, other) - expected)) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reader_is_all_that_images_are_read_by(name):
  model = FAMILIES[name].model
  params, prompt = tiny_params(model), random_batch(2, 0, None, model).prompt
  flat = tree.flatten(params)
  own = {k: v for k, v in flat.items() if re.fullmatch(model.reader, k)}
  assert own.keys() < flat.keys()
  read = model.read_images(tree.unflatten(own), prompt.images)
  np.testing.assert_allclose(
    read, model.read_images(params, prompt.images), atol=1e-6
  )
