"""The tokenizer of an HF-format folder."""

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
