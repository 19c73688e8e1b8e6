"""The tokenizer of an HF-format folder."""

import functools
import os

import transformers

from genrec_jax.core.errors import UserError


def read_tokenizer(
  folder: str | os.PathLike[str],
) -> transformers.PreTrainedTokenizerBase:
  """Reads a tokenizer; no network.

  Raises:
    UserError: its files are missing or damaged.
  """
  try:
    return transformers.AutoTokenizer.from_pretrained(
      folder, local_files_only=True
    )
  except Exception as error:  # transformers raises many kinds
    why = " ".join(str(error).split())
    raise UserError(
      f"cannot read the tokenizer in {folder}: {why}; expected whole files of a"
      " tokenizer, such as tokenizer.json and tokenizer_config.json"
    ) from None


def plain(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> str:
  """Takes out special tokens that are spelt out in a text.

  By chance or on purpose: they would stand for images.
  """
  special, begins = _special(tokenizer)
  # Thousands in some tokenizers, of which few texts hold as much as the first
  # letter.
  if begins.isdisjoint(text):
    return text
  for token in special:
    text = text.replace(token, " ")
  return text


@functools.lru_cache(8)
def _special(
  tokenizer: transformers.PreTrainedTokenizerBase,
) -> tuple[tuple[str, ...], frozenset[str]]:
  """Returns a tokenizer's special tokens and the letters they begin with."""
  special = tuple(filter(None, tokenizer.get_added_vocab()))
  return special, frozenset(token[0] for token in special)
