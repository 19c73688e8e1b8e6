"""Emu3's images as tokens, and its prompts without text, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core.types import Prompt, Title
from genrec_jax.models import emu3_tokens

BOS, PAD, BEGIN = 0, 9, (4, 5)


def test_each_row_of_codes_has_an_end():
  ids = jnp.arange(6).reshape(1, 6)
  assert emu3_tokens.in_rows(ids, 3, 9).tolist() == [[0, 1, 2, 9, 3, 4, 5, 9]]
  assert emu3_tokens.in_rows(ids, 2, 9).tolist() == [
    [0, 1, 9, 2, 3, 9, 4, 5, 9]
  ]


@pytest.mark.parametrize("code_ids", [range(3, 6), (5, 3, 4)])
def test_codes_and_tokens_are_looked_up_alike(code_ids):
  codes = jnp.asarray([[2, 0], [1, 1]])
  ids = emu3_tokens.ids_of(code_ids, codes)
  assert ids.tolist() == [[code_ids[c] for c in row] for row in codes.tolist()]
  values = jnp.arange(8) * 10
  assert emu3_tokens.at_codes(code_ids, values, 0)[codes].tolist() == (
    values[ids].tolist()
  )


def test_an_image_comes_behind_its_begin_and_that_behind_the_title():
  image = jnp.asarray([[[7, 8]]])
  title = Title(
    tokens=np.asarray([[[1, 2, 0]]], np.int32),
    words=np.asarray([[[True, True, False]]]),
  )
  tokens, real = emu3_tokens.answer(title, image, BEGIN)
  assert tokens.tolist() == [[[1, 2, 0, 4, 5, 7, 8]]]
  assert real is not None
  assert real.tolist() == [[[True, True, False, True, True, True, True]]]
  tokens, real = emu3_tokens.answer(title, None, BEGIN)
  assert (tokens.tolist(), real.tolist()) == ([[[1, 2, 0]]], [[[1, 1, 0]]])
  tokens, real = emu3_tokens.answer(None, image, BEGIN)
  assert (tokens.tolist(), real) == ([[[7, 8]]], None)


def test_prompts_of_a_batch_end_with_a_begin_or_without_each_on_its_own():
  ids = np.asarray([[BOS, 7, 4, 5], [PAD, BOS, 7, 5]], np.int32)
  prompt = Prompt(
    ids=ids, mask=ids != PAD, images=np.zeros((2, 1, 8, 8, 3), np.uint8)
  )
  found = emu3_tokens.without_text(prompt, BEGIN, bos_id=BOS, pad_id=PAD)
  assert found.ids.tolist() == [[PAD, BOS, 4, 5], [PAD, PAD, PAD, BOS]]
  assert found.mask.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
  assert found.images.shape[1] == 0
