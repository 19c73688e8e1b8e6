"""A prompt as the model reads it, for a person to check before a run."""

import itertools
import json
from typing import Any

from genrec_jax.core.types import Prompt

_FEW = 3  # equal tokens in a row that are still written out, less one


def line(tokenizer: Any, prompt: Prompt) -> str:
  """Returns the first of some prompts, special tokens included, on one line.

  Runs of one token are written once, with their number: a wrong template,
  missing images or cut titles are seen at a glance.

  Args:
    tokenizer: of the generator.
    prompt: of numpy arrays.
  """
  ids = prompt.ids[0][prompt.mask[0]].tolist()
  text, plain = "", []  # plain: tokens that are yet to be decoded, together
  for token, run in itertools.groupby(ids):
    count = len(list(run))
    if count < _FEW:
      plain += [token] * count
      continue
    text += f"{tokenizer.decode(plain)}{tokenizer.decode([token])}*{count}"
    plain = []
  text += tokenizer.decode(plain)
  # Quoted: spaces at the ends are seen, and new lines stay on the line.
  quoted = json.dumps(text, ensure_ascii=False)
  return f"first prompt, {len(ids)} tokens: {quoted}"
