"""The model's own eyes: its log-probability of a title, by another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.core.types import Prompt, Title
from genrec_jax.testing import BOI, BOS, EOI, EOS, IMAGE, amplified, tiny_janus
from tests.rounding import score_bound

MODEL = tiny_janus()
QUESTION = rewards.Question(
  ids=(BOS, 7, BOI, *[IMAGE] * MODEL.image_tokens, EOI, 9), end_id=EOS
)


@pytest.fixture(scope="module")
def params():
  return amplified(MODEL.init(jax.random.key(0)), 1.25)


def test_a_title_is_read_off_its_own_image(params):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 2, 16, 16, 3), np.uint8)
  tokens = np.asarray([[[20, 21, BOI], [BOI, 0, 0]], [[15, 16, 17], [8, 9, 0]]])
  lengths = np.asarray([[2, 0], [3, 2]])  # the third title was cut off
  words = np.arange(3) < lengths[..., None]
  title = Title(tokens=jnp.asarray(tokens), words=jnp.asarray(words))
  found = jax.jit(
    lambda images, title: rewards.read_titles(
      MODEL, params, QUESTION, images, title
    )
  )(images, title)
  for place in np.ndindex(2, 2):
    # An answer in words ends otherwise than a title before an image.
    own = tokens[place][: lengths[place]].tolist()
    own += [EOS] * int(lengths[place] < 3)
    ids = np.asarray([[*QUESTION.ids, *own]], np.int32)
    mask = np.ones_like(ids, bool)
    row = Prompt(ids=ids, mask=mask, images=images[place][None, None])
    hidden = MODEL.hidden_states(params, MODEL.embed(params, row), mask)
    logits = MODEL.text_vocabulary.logits(params, hidden[:, :-1])
    logprobs = jax.nn.log_softmax(logits)[0, -len(own) :]
    expected = np.zeros(3)
    expected[: len(own)] = np.take_along_axis(
      np.asarray(logprobs), np.asarray(own)[:, None], -1
    )[:, 0]
    bound = score_bound(expected)
    np.testing.assert_allclose(found[place], expected, rtol=0, atol=bound)
    mean = rewards.mean_reading(found, title)[place]
    np.testing.assert_allclose(mean, expected.sum() / len(own), rtol=1e-5)
  # Of another image it is another.
  other = jax.jit(
    lambda images, title: rewards.read_titles(
      MODEL, params, QUESTION, images, title
    )
  )(images[:, ::-1], title)
  assert np.abs(other - found).max() > 1e-3


def test_no_gradient_flows_to_what_reads(params):
  images = np.zeros((1, 1, 16, 16, 3), np.uint8)
  title = Title(
    tokens=jnp.asarray([[[20, BOI]]]), words=jnp.zeros((1, 1, 2), bool)
  )
  slopes = jax.grad(
    lambda params: rewards.read_titles(
      MODEL, params, QUESTION, images, title
    ).sum()
  )(params)
  assert all(not np.any(x) for x in jax.tree.leaves(slopes))
