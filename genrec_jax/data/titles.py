"""Titles of items: the longest, cut to a number of tokens, and as answers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec_jax.core.types import Title
from genrec_jax.data.index import Index

# The tokens of a title to its text.
Decode = Callable[[Sequence[int]], str]

# Tokens of a title in the prompt, at most: enough to name an item, and one
# page-long title cannot make every prompt of the data set long.
_MAX_TOKENS = 64
# Of a title that is itself the prompt: as long as benchmarks of text to image.
PROMPT_TOKENS = 256
# Titles tokenized to find the longest, at most: those of most bytes. In a
# larger catalogue one of fewer bytes may have more tokens; it is cut to fit.
_CANDIDATES = 4096


def candidates(index: Index) -> list[str]:
  """Returns the titles of most bytes, in the order of items."""
  lengths = np.diff(index.title_starts)  # [I] bytes
  rows = np.arange(len(lengths))
  if len(rows) > _CANDIDATES:
    # A partition, not a sort: catalogues have millions of titles.
    rows = np.sort(np.argpartition(lengths, -_CANDIDATES)[-_CANDIDATES:])
  return [index.title(int(row)) for row in rows]


def longest(
  titles: Sequence[str],
  tokenizer: Any,
  number: int = 32,
  most: int = _MAX_TOKENS,
) -> tuple[int, list[str]]:
  """Returns the most tokens that a title has, and the longest titles.

  Args:
    titles: of any length; cut here to what a prompt takes.
    tokenizer: a fast one of transformers.
    number: of titles to return, at most.
    most: tokens of a title.
  """
  short, lengths = shorten(titles, tokenizer, most)
  order = sorted(range(len(titles)), key=lambda i: -lengths[i])[:number]
  return lengths[order[0]], [short[i] for i in order]


def shorten(
  titles: Sequence[str], tokenizer: Any, most: int
) -> tuple[list[str], list[int]]:
  """Returns titles cut to `most` tokens, and their numbers of tokens."""
  # Not by `truncation`, a state of the tokenizer: another stream's thread may
  # be encoding prompts with it now, and would get them cut.
  tokens = tokenizer(
    titles, add_special_tokens=False, return_offsets_mapping=True
  )
  # Per title, the (start, end) of each token in its letters.
  offsets = [pairs[:most] for pairs in tokens["offset_mapping"]]
  short = [
    title[: pairs[-1][1]] if pairs else title
    for title, pairs in zip(titles, offsets, strict=True)
  ]
  return short, [len(pairs) for pairs in offsets]


def as_answer(words: Sequence[int], end_id: int, length: int) -> Title:
  """Returns a title as an answer writes it, [W] of numpy.

  Args:
    words: its tokens.
    end_id: what ends it.
    length: W; a title of W words or more is cut off and has no end.
  """
  tokens = [*words, end_id][:length]
  return Title(
    tokens=np.asarray(tokens + [0] * (length - len(tokens)), np.int32),
    words=np.arange(length) < len(words),
  )


def texts(tokens: np.ndarray, words: np.ndarray, decode: Decode) -> list[str]:
  """Returns the texts of titles, one after another.

  Args:
    tokens: [..., W] int.
    words: [..., W] bool, True = a word; ends are none.
    decode: of the tokenizer that they are written in.
  """
  return [
    decode(row[real].tolist()).strip()
    for row, real in zip(
      tokens.reshape(-1, tokens.shape[-1]),
      words.reshape(-1, words.shape[-1]),
      strict=True,
    )
  ]
