import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.data import titles
from genrec_jax.data.index import Index


@pytest.fixture
def tokenizer():
  return testing.word_tokenizer()


def _index(texts):
  encoded = [text.encode() for text in texts]
  none = np.zeros(0, np.int32)
  return Index(
    history_starts=np.zeros(1, np.int64),
    item_rows=none,
    splits=none.reshape(0, 3),
    title_starts=np.cumsum([0, *map(len, encoded)]),
    title_bytes=np.frombuffer(b"".join(encoded), np.uint8),
  )


def test_candidates_are_the_titles_of_most_bytes_in_their_order(monkeypatch):
  index = _index(["red", "a large one", "é", "larger than all", "b"])
  assert titles.candidates(index) == [index.title(row) for row in range(5)]
  monkeypatch.setattr(titles, "_CANDIDATES", 2)
  assert titles.candidates(index) == ["a large one", "larger than all"]


def test_titles_are_cut_at_tokens(tokenizer):
  short, lengths = titles.shorten(["red  blue circle", "red", ""], tokenizer, 2)
  assert short == ["red  blue", "red", ""]
  assert lengths == [2, 1, 0]
  # The tokenizer itself cuts nothing afterwards.
  assert len(tokenizer("red blue circle")["input_ids"]) == 3


def test_the_longest_titles_come_first_and_are_cut(tokenizer):
  some = ["red", "red blue circle on sand", "red blue", "blue circle"]
  assert titles.longest(some, tokenizer, 2) == (
    5,
    ["red blue circle on sand", "red blue"],
  )
  most, longest = titles.longest(some, tokenizer, 2, most=2)
  assert most == 2
  assert longest == ["red blue", "red blue"]


def test_a_title_as_an_answer_has_its_end_or_is_cut_off():
  for words, length, tokens, real in (
    ([7, 8], 4, [7, 8, 9, 0], [1, 1, 0, 0]),
    ([7, 8], 3, [7, 8, 9], [1, 1, 0]),
    ([7, 8], 2, [7, 8], [1, 1]),
    ([7, 8, 6], 2, [7, 8], [1, 1]),
    ([], 2, [9, 0], [0, 0]),
    ([9, 7], 4, [9, 7, 9, 0], [1, 1, 0, 0]),  # one that begins with its end
  ):
    title = titles.as_answer(words, 9, length)
    assert title.tokens.tolist() == tokens
    assert title.words.tolist() == [bool(x) for x in real]
    assert title.tokens.dtype == np.int32


def test_texts_are_of_words_alone(tokenizer):
  ids = tokenizer(["red blue", "circle"])["input_ids"]
  tokens = np.asarray([[[*ids[0], 3], [*ids[1], 3, 3]]])  # [1, 2, 3]
  words = np.arange(3) < np.asarray([2, 1])[:, None]
  found = titles.texts(tokens, words[None], tokenizer.decode)
  assert found == ["red blue", "circle"]
