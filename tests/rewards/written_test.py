"""Rewards of titles: translated as their tokenizers do, compared by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax import rewards
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.types import Title
from genrec_jax.rewards import Beside, Translator, written
from genrec_jax.testing import janus_tokenizer, word_tokenizer
from genrec_jax.train.rl_options import RLOptions
from tests.rewards.cosines_test import TARGETS
from tests.train.options import rl_options

TEXTS = ["red circle", "", "large blue cross"]
SIZE = 6


@dataclasses.dataclass(frozen=True)
class Words:
  """An encoder of texts: how often each of three words is in it."""

  def embed_texts(self, params, ids, mask):
    seen = (ids[..., None] == params) & mask[..., None]
    return seen.sum(1).astype(jnp.float32)


def translator():
  ours, theirs = janus_tokenizer(), word_tokenizer(SIZE)

  def encode(texts):
    found = theirs(
      list(texts), padding="max_length", truncation=True, return_tensors="np"
    )
    return found["input_ids"], found["attention_mask"].astype(bool)

  return Translator(ours.decode, encode), ours, theirs


def titles(tokenizer):
  """Returns two prompts' titles, [2, 3, W]; beyond their words is junk."""
  rows = [tokenizer.encode(t, add_special_tokens=False) for t in TEXTS]
  width = max(map(len, rows)) + 1
  tokens = np.full((2, 3, width), 9, np.int32)
  words = np.zeros((2, 3, width), bool)
  for prompt in range(2):
    for sample, row in enumerate(rows[::-1] if prompt else rows):
      tokens[prompt, sample, : len(row)] = row
      words[prompt, sample, : len(row)] = True
  return Title(tokens=jnp.asarray(tokens), words=jnp.asarray(words))


def test_titles_are_read_as_the_texts_that_they_are():
  between, ours, theirs = translator()
  title = titles(ours)
  names = ("red", "cross", "circle")
  params = jnp.asarray([[[theirs.get_vocab()[n] for n in names]]])
  expected = np.asarray([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32)
  expected = np.stack([expected, expected[::-1]])

  def embed(params, title):
    return rewards.embed_titles(Words(), params, title, between)

  np.testing.assert_array_equal(jax.jit(embed)(params, title), expected)
  # Each device asks for the titles that it holds.
  mesh = mesh_lib.make_mesh(2, devices=jax.devices()[:2])
  rows = sharding.put_batch(mesh, jax.device_get(title))
  found = jax.jit(sharding.trace_with_mesh(mesh, embed))(params, rows)
  np.testing.assert_array_equal(found, expected)


def test_cosines_with_the_image_and_the_real_title_by_hand():
  shown = jnp.asarray([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, -1.0]]])
  images = jnp.asarray([[[0.0, 1.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, 1.0]]])
  beside = Beside(images, TARGETS)
  np.testing.assert_allclose(
    written.consistency(shown, beside), [[0, 1], [1, -1]], atol=1e-6
  )
  text = np.asarray(TARGETS.text)[:, None]  # [P, 1, E]
  np.testing.assert_allclose(
    written.title(shown, beside),
    np.sum(np.asarray(shown) * text, -1),
    atol=1e-6,
  )


def looking(**weights) -> RLOptions:
  sections = {name: {"weight": weight} for name, weight in weights.items()}
  for name in sections.keys() & {"eyes"}:
    sections[name]["question"] = "?"
  return rl_options(rewards=rewards.from_options(sections))


def test_a_title_s_reward_looks_with_clip_and_of_weight_0_with_nothing():
  assert looking(title=1.0).looking == {rewards.WRITTEN, rewards.CLIP}
  assert looking(eyes=1.0).looking == {rewards.EYES}
  off = looking(title=0.0, consistency=0.0, eyes=0.0, text=1.0)
  assert off.looking == {rewards.CLIP}
  assert off.rewards.keys() == {"text"}
