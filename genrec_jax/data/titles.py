"""Titles of items: the longest of a data set, and cut to a number of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec_jax.data.index import Index

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
