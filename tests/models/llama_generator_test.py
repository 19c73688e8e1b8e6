"""What generators of a Llama share: values put at their placeholders."""

import numpy as np
import pytest

from genrec_jax.models.llama_generator import placed
from genrec_jax.testing import FAMILIES


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
