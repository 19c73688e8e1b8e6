"""The model's own eyes: its log-probability of a title, by another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.core.types import Prompt, Title
from genrec_jax.testing import (
  BOI,
  BOS,
  EOS,
  FAMILIES,
  PAD,
  image_ids,
  tiny_params,
)
from tests.rounding import score_bound


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
  return FAMILIES[request.param].model


@pytest.fixture(scope="module")
def params(model):
  return tiny_params(model)


@pytest.fixture(scope="module")
def question(model):
  return rewards.Question(ids=(BOS, 7, *image_ids(model), 9), end_id=EOS)


def test_a_title_is_read_off_its_own_image(model, params, question):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 2, 16, 16, 3), np.uint8)
  tokens = np.asarray([[[20, 21, BOI], [BOI, 0, 0]], [[15, 16, 17], [8, 9, 0]]])
  lengths = np.asarray([[2, 0], [3, 2]])  # the third title was cut off
  words = np.arange(3) < lengths[..., None]
  title = Title(tokens=jnp.asarray(tokens), words=jnp.asarray(words))
  read = jax.jit(
    lambda params, images, title: rewards.read_titles(
      model, params, question, images, title
    )
  )
  found = read(params, images, title)

  @jax.jit
  def row_logprobs(params, row):
    hidden = model.hidden_states(params, model.embed(params, row), row.mask)
    logits = model.text_vocabulary.logits(params, hidden)
    return jax.nn.log_softmax(logits)[0]

  for place in np.ndindex(2, 2):
    # An answer in words ends otherwise than a title before an image.
    own = tokens[place][: lengths[place]].tolist()
    own += [EOS] * int(lengths[place] < 3)
    # Filled up behind the answer, which is causal.
    ids = np.asarray([[*question.ids, *own, *[PAD] * (3 - len(own))]], np.int32)
    mask = np.arange(ids.shape[1])[None] < len(question.ids) + len(own)
    row = Prompt(ids=ids, mask=mask, images=images[place][None, None])
    logprobs = np.asarray(row_logprobs(params, row))  # [T, V]
    start = len(question.ids) - 1
    expected = np.zeros(3)
    expected[: len(own)] = logprobs[range(start, start + len(own)), own]
    bound = score_bound(expected)
    np.testing.assert_allclose(found[place], expected, rtol=0, atol=bound)
    mean = rewards.mean_reading(found, title)[place]
    np.testing.assert_allclose(mean, expected.sum() / len(own), rtol=1e-5)
  # Of another image it is another.
  other = read(params, images[:, ::-1], title)
  assert np.abs(other - found).max() > 1e-3


def test_no_gradient_flows_to_what_reads(model, params, question):
  images = np.zeros((1, 1, 16, 16, 3), np.uint8)
  title = Title(
    tokens=jnp.asarray([[[20, BOI]]]), words=jnp.zeros((1, 1, 2), bool)
  )

  @jax.jit
  @jax.grad
  def slopes_of(params):
    return rewards.read_titles(model, params, question, images, title).sum()

  slopes = slopes_of(params)
  assert all(not np.any(x) for x in jax.tree.leaves(slopes))
