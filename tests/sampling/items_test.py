"""Titles with their images: what each sees, ends and cuts, by other ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import sampling
from genrec_jax.core.types import Title
from genrec_jax.sampling import Sampling
from genrec_jax.testing import BOI, TITLES
from tests.rounding import score_bound

ENDS = np.asarray(TITLES.end_ids)


@pytest.fixture(scope="module")
def before(model, prompt):
  """The prompts without the begin of their image."""
  begun = len(model.image_begin)
  return prompt.replace(
    ids=prompt.ids[:, :-begun], mask=prompt.mask[:, :-begun]
  )


@pytest.fixture(scope="module")
def rollout(model, params, before):
  return jax.jit(
    lambda key: sampling.sample_items(
      model, params, before, key, Sampling(num_samples=16, guidance=2.0), TITLES
    )
  )(jax.random.key(1))


def test_titles_end_at_an_end_or_are_cut_off(rollout):
  tokens, words = (
    np.asarray(rollout.title.tokens),
    np.asarray(rollout.title.words),
  )
  written = np.asarray(rollout.title.written)
  lengths = words.sum(-1)
  assert set(lengths.ravel()) >= {0, 1, 2, 5}
  for place in np.ndindex(lengths.shape):
    ends = np.flatnonzero(np.isin(tokens[place], ENDS) & written[place])
    first = ends[0] if len(ends) else TITLES.max_tokens
    assert lengths[place] == first
    np.testing.assert_array_equal(words[place], np.arange(5) < first)
    np.testing.assert_array_equal(written[place], np.arange(5) <= first)
    assert rollout.title.cut[place] == (not len(ends))
  assert np.all(tokens[~written] == 0)
  assert np.all(np.asarray(rollout.title_logprobs)[~written] == 0)
  assert np.all(np.asarray(rollout.title_logprobs)[written] < 0)


def test_an_image_is_scored_as_if_its_title_were_in_the_prompt(
  model, params, prompt, before, rollout
):
  """Positions go on from the title's words, and nothing else is seen."""
  options = Sampling(guidance=3.0)
  codes, title = rollout.codes[:1], jax.tree.map(lambda x: x[:1], rollout.title)
  one = jax.tree.map(lambda x: x[:1], before)
  found = sampling.score_images(model, params, one, codes, options, title=title)
  # The unconditional branch is that of an image alone.
  alone = sampling.score_images(
    model,
    params,
    jax.tree.map(lambda x: x[:1], prompt),
    codes,
    options,
    branches=True,
  ).branches[..., 1]
  score = functools.partial(
    sampling.score_images, model, params, sampling=options, branches=True
  )
  both = score(one, codes, title=title).branches
  bound = score_bound(alone)
  np.testing.assert_allclose(both[..., 1], alone, rtol=0, atol=bound)
  lengths = np.asarray(title.words).sum(-1)[0]
  for sample in (int(np.argmin(lengths)), int(np.argmax(lengths)), 3):
    own = np.asarray(title.tokens)[0, sample][: lengths[sample]]
    tail = np.asarray([[*own, *model.image_begin]], np.int32)
    ids = np.concatenate([one.ids, tail], 1)
    longer = one.replace(ids=ids, mask=np.ones_like(ids, bool))
    expected = sampling.score_images(
      model, params, longer, codes[:, sample, None], Sampling()
    ).logprobs[0, 0]
    np.testing.assert_allclose(
      both[0, sample, :, 0], expected, rtol=0, atol=bound
    )
  assert found.title.logprobs.shape == title.tokens.shape


def test_titles_are_scored_as_words_of_a_text(model, params, before, rollout):
  """By the whole rows at once, uncached and unshared."""
  title, sample = rollout.title, 5
  found = sampling.score_titles(model, params, before, title)
  ids = jnp.concatenate([before.ids, title.tokens[:, sample]], 1)
  mask = np.pad(before.mask, ((0, 0), (0, 5)), constant_values=True)
  row = before.replace(ids=ids, mask=mask)
  hidden = model.hidden_states(params, model.embed(params, row), mask)
  logits = model.text_vocabulary.logits(params, hidden[:, -6:-1])
  expected = np.take_along_axis(
    jax.nn.log_softmax(logits), title.tokens[:, sample, :, None], -1
  )[..., 0]
  written = np.asarray(title.written)[:, sample]
  np.testing.assert_allclose(
    found[:, sample],
    np.where(written, expected, 0),
    rtol=0,
    atol=score_bound(expected),
  )
  # With codes behind them, and guidance for those, they score the same.
  with_codes = sampling.score_images(
    model,
    params,
    before,
    rollout.codes,
    Sampling(guidance=3.0),
    title=title,
    branches=True,
  ).title
  bound = score_bound(found)
  np.testing.assert_allclose(with_codes.logprobs, found, rtol=0, atol=bound)
  np.testing.assert_allclose(
    with_codes.branches[..., 0], found, rtol=0, atol=bound
  )
  assert np.all(np.asarray(with_codes.entropy)[~np.asarray(title.written)] == 0)


def test_what_is_not_written_changes_nothing(model, params, before, rollout):
  title = rollout.title
  junk = title.replace(tokens=jnp.where(title.written, title.tokens, 7))
  score = jax.jit(
    lambda title: sampling.score_images(
      model, params, before, rollout.codes, Sampling(guidance=2.0), title=title
    )
  )
  one, other = score(title), score(junk)
  np.testing.assert_array_equal(one.logprobs, other.logprobs)
  np.testing.assert_array_equal(one.title.logprobs, other.title.logprobs)


def test_words_matter_to_the_image():
  title = Title(
    tokens=jnp.asarray([[[7, 8, BOI]]]), words=jnp.asarray([[[1, 1, 0]]], bool)
  )
  np.testing.assert_array_equal(title.written, [[[True, True, True]]])
  assert not title.cut.any()
