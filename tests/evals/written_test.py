"""Written titles: read from tokens, and scored by hand."""

import numpy as np
import pytest

from genrec_jax.core.types import Title
from genrec_jax.data import world
from genrec_jax.evals import written
from genrec_jax.evals.scoring import Shown, stacked
from genrec_jax.targets import Targets
from genrec_jax.testing import BOI, word_tokenizer


class _Clip:
  def embed_texts(self, texts):
    return np.asarray([[len(text), 1.0] for text in texts], np.float32)


@pytest.fixture
def read():
  """Two users' titles, two each: whole, cut off, empty and another."""
  tokenizer = word_tokenizer()
  texts = [["large red circle", "small blue cross"], ["", "red on sand"]]
  tokens = np.full((2, 2, 4), BOI, np.int32)
  words = np.zeros((2, 2, 4), bool)
  for place in np.ndindex(2, 2):
    ids = tokenizer(texts[place[0]][place[1]])["input_ids"]
    tokens[place][: len(ids)] = ids
    words[place][: len(ids)] = True
  words[0, 1] = True  # cut off after four
  tokens[0, 1, 3] = tokenizer("red")["input_ids"][0]
  title = Title(tokens=tokens, words=words)
  return written.read(title, tokenizer.decode, _Clip(), known=True)


def test_titles_are_read(read):
  assert read.texts.tolist() == [
    ["large red circle", "small blue cross red"],
    ["", "red on sand"],
  ]
  assert read.cut.tolist() == [[False, True], [False, False]]
  np.testing.assert_array_equal(
    read.attributes[0], [[0, 0, -1, -1, 2], [4, -1, -1, -1, 0]]
  )
  assert read.embeds.shape == (2, 2, 2)
  both = written.stacked([read, read])
  assert both.texts.shape == (4, 2)
  assert both.to(np.asarray([3, 0])).texts.tolist() == [
    read.texts[1].tolist(),
    read.texts[0].tolist(),
  ]
  assert written.stacked([None, None]) is None


def test_scores_by_hand(read):
  images = np.asarray([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]], np.float32)
  none = np.zeros((2, 0, 2)), np.zeros((2, 0), bool)
  targets = Targets(np.asarray([[0, 1.0], [1, 0]]), *none, *none)
  shown = np.asarray(
    [
      [world.attributes(0), [4, 5, 0, 0, 0]],
      [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]],
    ]
  )
  wants = np.asarray([[0, 0, 1], [1, 0, 1]])  # shape, colour, texture
  found = written.scores(read, images, targets, shown, wants)
  lengths = [[16, 20], [0, 11]]  # of the texts
  np.testing.assert_allclose(
    found["title_image_clip"], [(16 + 1) / 2, (1 + 11) / 2]
  )
  np.testing.assert_allclose(found["title_text_clip"], [1, sum(lengths[1]) / 2])
  np.testing.assert_allclose(found["title_cut"], [0.5, 0])
  # Of five: shape, colour; shape, size; none; colour.
  first = np.mean(read.attributes[0] == shown[0], -1)
  np.testing.assert_allclose(first, [0.4, 0.4])
  np.testing.assert_allclose(found["title_agreement"], [0.4, 0.1])
  np.testing.assert_allclose(found["title_match"], [(2 / 3 + 0) / 2, 1 / 6])
  # Without the truth CLIP's are left.
  bare = written.scores(
    read._replace(attributes=None), images, targets, None, None
  )
  assert bare.keys() == {"title_text_clip", "title_image_clip", "title_cut"}


def test_what_is_shown_carries_titles(read):
  shown = Shown({"clip": np.zeros((2, 2, 3))}, None, read)
  both = stacked([shown, shown])
  assert both.written.texts.shape == (4, 2)
  swapped = both.to(np.asarray([1, 0, 3, 2]))
  assert swapped.written.texts[0].tolist() == read.texts[1].tolist()
  assert stacked([shown._replace(written=None)]).written is None
