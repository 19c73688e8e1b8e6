"""A tiny model and two prompts of unequal length."""

import numpy as np
import pytest

from genrec_jax.core.types import Prompt
from genrec_jax.testing import (
  ANSWERS,
  BOS,
  FAMILIES,
  PAD,
  image_ids,
  tiny_params,
)


@pytest.fixture(params=ANSWERS)
def titles(request):
  return ANSWERS[request.param]


@pytest.fixture
def asked(model, prompt, titles):
  """The prompts, as they end where an answer has a title or has none."""
  if titles is None:
    return prompt
  begun = len(model.image_begin)
  return prompt.replace(
    ids=prompt.ids[:, :-begun], mask=prompt.mask[:, :-begun]
  )


# Every test that asks for it runs for each family.
@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
  return FAMILIES[request.param].model


@pytest.fixture(scope="module")
def params(model):
  return tiny_params(model)


@pytest.fixture(scope="module")
def prompt(model):
  """Two prompts of unequal length, the second with one image less."""
  image, begin = image_ids(model), model.image_begin
  long, short = (
    [BOS, 7, *image, 8, *image, 9, *begin],
    [BOS, 11, *image, *begin],
  )
  rows = [long, [PAD] * (len(long) - len(short)) + short]
  rng = np.random.default_rng(0)
  ids = np.asarray(rows, np.int32)
  return Prompt(
    ids=ids,
    mask=ids != PAD,
    images=rng.integers(
      0, 256, (2, 2, model.read_size, model.read_size, 3), np.uint8
    ),
  )
