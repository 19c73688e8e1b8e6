"""Vocabulary map of an Emu3 checkpoint: which token stands for which code."""

from collections.abc import Mapping
import re
from typing import Any

CODE = re.compile(r"<\|visual token (\d+)\|>")
# As transformers' `Emu3ImageVocabularyMapping` calls them.
ROW_END, IMAGE = "<|extra_200|>", "<image>"


def code_ids(
  vocabulary: Mapping[str, int], codebook_size: int
) -> tuple[range | tuple[int, ...], list[str]]:
  """Returns the token of each code, and what is wrong with them.

  Args:
    vocabulary: `vocabulary_map` of config.json.
    codebook_size: codes that there are.
  """
  found: dict[int, int] = {}
  for name, token in vocabulary.items():
    match = CODE.fullmatch(name)
    if match:
      found[int(match[1])] = token
  missing = [code for code in range(codebook_size) if code not in found]
  problems = []
  if missing:
    problems.append(
      f"vocabulary_map has no '<|visual token {missing[0]:06d}|>' and"
      f" {len(missing) - 1} more of the {codebook_size} codes of vq_config"
    )
  if max(found, default=0) >= codebook_size:
    problems.append(
      f"vocabulary_map has tokens of {len(found)} codes; vq_config has"
      f" {codebook_size}"
    )
  ids = tuple(found.get(code, -1) for code in range(codebook_size))
  if not problems and len(set(ids)) < len(ids):
    problems.append("vocabulary_map gives one token to several codes")
  start = ids[0] if ids else 0
  # Kept as a range where it is one: a slice instead of a look-up.
  whole = range(start, start + len(ids))
  return (whole if ids == tuple(whole) else ids), problems


def mismatches(
  vocabulary: Mapping[str, int], of_tokenizer: Mapping[str, int], size: int
) -> list[str]:
  """Returns where a vocabulary map and a tokenizer do not say the same.

  Args:
    vocabulary: `vocabulary_map` of config.json.
    of_tokenizer: `get_vocab()` of the tokenizer.
    size: `vocab_size` of the language model.
  """
  problems = [
    f"vocabulary_map has no {name!r}"
    for name in (ROW_END, IMAGE)
    if name not in vocabulary
  ]
  differing = [
    f"{name!r} is {of_tokenizer.get(name)} in the tokenizer and {token} in"
    " vocabulary_map"
    for name, token in vocabulary.items()
    if of_tokenizer.get(name) != token
  ]
  if differing:
    more = f", and {len(differing) - 1} more" if differing[1:] else ""
    problems.append(f"{differing[0]}{more}; get the folder again")
  largest = max(vocabulary.values(), default=-1)
  if largest >= size:
    problems.append(
      f"vocabulary_map has token {largest}; the language model has {size}"
    )
  return problems


def of_config(config: Mapping[str, Any]) -> Mapping[str, int]:
  """Returns the vocabulary map of a config.json; {} where there is none."""
  return config.get("vocabulary_map") or {}
