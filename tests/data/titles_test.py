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
