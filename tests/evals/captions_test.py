"""Captions: the share of a title that is read, by whole rows at once."""

import dataclasses

import jax
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.types import Prompt
from genrec_jax.evals import captions
from genrec_jax.evals.held_out import prepare
from tests.hf import tiny_emu3

# What is read twice in a row, as a word and as a letter, is read right once.
TITLES = ("red red red rrrr", "", "large blue cross", "cross")


def janus():
  processor = testing.TinyProcessor()
  processor.answers = True
  model = testing.tiny_janus(
    image_size=32, vocab_size=len(processor.tokenizer), width=16
  )
  return model, testing.random_params(model, 0, 0.5), processor


def emu3():
  return tiny_emu3.pair()[1:]


def repeating(params):
  """Returns parameters by which a model says again what it has just read."""
  table = 100 * params["language"]["embed_tokens"]["embedding"]
  tied = {"embed_tokens": {"embedding": table}, "lm_head": {"kernel": table.T}}
  tied["norm"] = jax.tree.map(np.ones_like, params["language"]["norm"])
  return {**params, "language": {**params["language"], **tied}}


@pytest.fixture(scope="module", params=[janus, emu3])
def family(request):
  """Returns a model, its parameters and its processor."""
  model, params, processor = request.param()
  return model, repeating(params), processor


def test_the_share_of_tokens_that_are_the_likeliest(family, batches, panel):
  model, params, processor = family
  held = prepare(batches(known=True), panel, 4)[0]
  held = dataclasses.replace(held, titles=TITLES[: held.count])
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  found = captions.make(model, processor, [held], mesh)
  lengths = [len(processor.title_ids(title)) for title in TITLES]
  assert found.length == max(lengths) + 1 >= 5  # the longest, and the end
  accuracy = found.accuracy(params, [held])
  assert accuracy.shape == (held.count,)
  assert 0 < accuracy[0] < 1  # all but the first and the end

  question = processor.question_ids([""], captions.QUESTION)

  @jax.jit
  def likeliest(params, row):
    embeds = model.embed(params, row)
    hidden = model.hidden_states(params, embeds, row.mask)
    return model.text_vocabulary.logits(params, hidden).argmax(-1)

  for user, title in enumerate(held.titles):
    own = [*processor.title_ids(title), processor.end_ids[0]]
    ids = np.asarray([[*question, *own]], np.int32)
    image = held.batch.future[user, 0][None, None]
    row = Prompt(ids=ids, mask=np.ones_like(ids, bool), images=image)
    said = np.asarray(likeliest(params, row))[0, -len(own) - 1 : -1]
    np.testing.assert_allclose(accuracy[user], np.mean(said == own))


def test_without_titles_nobody_is_asked(family, batches, panel):
  model, _, processor = family
  held = dataclasses.replace(
    prepare(batches(known=True), panel, 4)[0], titles=()
  )
  assert captions.make(model, processor, [held], None) is None


def test_who_was_not_made_to_answer_is_not_asked(batches, panel):
  model, _, processor = emu3()
  held = dataclasses.replace(
    prepare(batches(known=True), panel, 4)[0], titles=TITLES
  )
  gen = dataclasses.replace(processor, chat_template=None)  # as Emu3-Gen
  assert captions.make(model, gen, [held], None) is None
