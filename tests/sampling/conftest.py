"""A tiny model and two prompts of unequal length."""

import jax
import numpy as np
import pytest

from genrec_jax.core.types import Prompt
from genrec_jax.testing import (
  ANSWERS,
  BOI,
  BOS,
  IMAGE,
  PAD,
  amplified,
  tiny_janus,
)


@pytest.fixture(params=ANSWERS)
def titles(request):
  return ANSWERS[request.param]


@pytest.fixture
def asked(prompt, titles):
  """The prompts, as they end where an answer has a title or has none."""
  if titles is None:
    return prompt
  return prompt.replace(ids=prompt.ids[:, :-1], mask=prompt.mask[:, :-1])


@pytest.fixture(scope="module")
def model():
  return tiny_janus()


@pytest.fixture(scope="module")
def params(model):
  return amplified(model.init(jax.random.key(0)), 1.25)


@pytest.fixture(scope="module")
def prompt():
  """Two prompts of unequal length, the second with one image less."""
  image = [BOI, IMAGE, IMAGE, IMAGE, IMAGE, 5]
  long, short = (
    [BOS, 7, *image, 8, *image, 9, BOI],
    [BOS, 11, *image, BOI],
  )
  rows = [long, [PAD] * (len(long) - len(short)) + short]
  rng = np.random.default_rng(0)
  ids = np.asarray(rows, np.int32)
  return Prompt(
    ids=ids,
    mask=ids != PAD,
    images=rng.integers(0, 256, (2, 2, 16, 16, 3), np.uint8),
  )
