"""Titles cut to a number of tokens, and the longest of a data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec_jax.data.index import Index

# Of a title in the prompt: enough to name an item, and one page-long title
# cannot make every prompt of the data set long.
TITLE_TOKENS = 64
# How many titles are tokenized to find the longest: those of most bytes. In a
# larger catalogue one of fewer bytes may have more tokens; it is cut to fit.
_TITLES_READ = 4096


def long_titles(index: Index) -> list[str]:
  """Returns the titles of most bytes, in the order of items."""
  lengths = np.diff(index.title_starts)
  rows = np.arange(len(lengths))
  if len(rows) > _TITLES_READ:
    rows = np.sort(np.argpartition(lengths, -_TITLES_READ)[-_TITLES_READ:])
  return [index.title(row) for row in rows]


def longest(
  titles: Sequence[str], tokenizer: Any, sample: int = 32
) -> tuple[int, list[str]]:
  """Returns how many tokens a title has at most, and the longest titles."""
  short, lengths = shorten(titles, tokenizer, TITLE_TOKENS)
  order = sorted(range(len(titles)), key=lambda i: -lengths[i])[:sample]
  return lengths[order[0]], [short[i] for i in order]


def shorten(
  titles: Sequence[str], tokenizer: Any, most: int
) -> tuple[list[str], list[int]]:
  """Cuts titles to `most` tokens; returns them and their numbers of tokens."""
  # Not by `truncation`, a state of the tokenizer: another stream's thread may
  # be encoding prompts with it now, and would get them cut.
  tokens = tokenizer(
    titles, add_special_tokens=False, return_offsets_mapping=True
  )
  cut = [offsets[:most] for offsets in tokens["offset_mapping"]]
  short = [
    title[: offsets[-1][1]] if offsets else title
    for title, offsets in zip(titles, cut, strict=True)
  ]
  return short, [len(offsets) for offsets in cut]
