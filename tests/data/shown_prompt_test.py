"""The prompt that a run prints at its start."""

import numpy as np

from genrec_jax.core.types import Prompt
from genrec_jax.data import shown_prompt
from genrec_jax.testing import (
  BOI,
  BOS,
  EOI,
  IMAGE,
  PAD,
  SPECIAL_TOKENS,
  word_tokenizer,
)


def test_it_reads_as_the_model_does_with_runs_counted():
  tokenizer = word_tokenizer()
  words = tokenizer("red circle what comes next")["input_ids"]
  ids = [PAD, BOS, *words[:2], BOI, *[IMAGE] * 4, EOI, *words[2:], BOI]
  prompt = Prompt(
    ids=np.asarray([ids, ids[::-1]]),
    mask=np.arange(len(ids))[None] > [[0], [0]],
    images=np.zeros(0),
  )
  bos = SPECIAL_TOKENS["bos_token"]
  assert shown_prompt.line(tokenizer, prompt) == (
    f'first prompt, 13 tokens: "{bos} red circle <begin_of_image>'
    '<image_placeholder>*4<end_of_image> what comes next <begin_of_image>"'
  )
