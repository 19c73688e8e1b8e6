"""Captions: the share of a title that is read, by whole rows at once."""

import dataclasses

import jax
import numpy as np

from genrec_jax import testing
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.types import Prompt
from genrec_jax.evals import captions
from genrec_jax.evals.held_out import prepare

PROCESSOR = testing.TinyProcessor()
PROCESSOR.answers = True
MODEL = testing.tiny_janus(
  image_size=32, vocab_size=len(PROCESSOR.tokenizer), width=16
)
TITLES = ("red circle on sand", "", "large blue cross", "cross")


def test_the_share_of_tokens_that_are_the_likeliest(batches, panel):
  held = prepare(batches(known=True), panel, 4)[0]
  held = dataclasses.replace(held, titles=TITLES[: held.count])
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  params = testing.random_params(MODEL, 0, 0.5)
  found = captions.make(MODEL, PROCESSOR, [held], mesh)
  assert found.length == 5  # the longest, and the end
  accuracy = found.accuracy(params, [held])
  assert accuracy.shape == (held.count,)

  question = PROCESSOR.question_ids([""], captions.QUESTION)

  @jax.jit
  def likeliest(params, row):
    embeds = MODEL.embed(params, row)
    hidden = MODEL.hidden_states(params, embeds, row.mask)
    return MODEL.text_vocabulary.logits(params, hidden).argmax(-1)

  for user, title in enumerate(held.titles):
    own = [*PROCESSOR.title_ids(title), testing.EOS]
    ids = np.asarray([[*question, *own]], np.int32)
    image = held.batch.future[user, 0][None, None]
    row = Prompt(ids=ids, mask=np.ones_like(ids, bool), images=image)
    said = np.asarray(likeliest(params, row))[0, -len(own) - 1 : -1]
    np.testing.assert_allclose(accuracy[user], np.mean(said == own))


def test_without_titles_nobody_is_asked(batches, panel):
  held = dataclasses.replace(
    prepare(batches(known=True), panel, 4)[0], titles=()
  )
  assert captions.make(MODEL, PROCESSOR, [held], None) is None
