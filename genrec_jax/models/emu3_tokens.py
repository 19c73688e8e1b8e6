"""Image codes among the tokens of Emu3's one vocabulary.

Letters: P prompts, T prompt tokens, G samples, W tokens of a title, H of an
image's begin, h rows of w codes, C codebook, V vocabulary.
"""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import Prompt, PyTree, Title
from genrec_jax.models.api import Vocabulary

# Logit of what no text holds. Finite: 0 times it is 0.
_NEVER = -1e9
# The token of each code, in the order of codes.
CodeIds = range | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RowVocabulary(Vocabulary):
  """Codes, which stand in rows.

  Attributes:
    end: maps decode parameters to the embedding of an end of row, [D].
  """

  end: Callable[[PyTree], jax.Array]


def ids_of(code_ids: CodeIds, codes: jax.Array) -> jax.Array:
  """Returns the tokens [...] of codes [...]."""
  if isinstance(code_ids, range):
    return code_ids.start + codes
  return jnp.asarray(code_ids, jnp.int32)[codes]


def at_codes(code_ids: CodeIds, values: jax.Array, axis: int) -> jax.Array:
  """Takes from an axis of length V what is of codes: C."""
  if isinstance(code_ids, range):  # no gather, which a sharded axis would need
    start, stop = code_ids.start, code_ids.stop
    return jax.lax.slice_in_dim(values, start, stop, axis=axis)
  return jnp.take(values, jnp.asarray(code_ids, jnp.int32), axis=axis)


def in_rows(ids: jax.Array, width: int, end: int) -> jax.Array:
  """Puts an end behind each row: [..., h w] to [..., h (w + 1)]."""
  rows = ids.reshape(*ids.shape[:-1], -1, width)  # [..., h, w]
  rows = jnp.pad(
    rows, [(0, 0)] * (rows.ndim - 1) + [(0, 1)], constant_values=end
  )
  return rows.reshape(*ids.shape[:-1], -1)


def answer(
  title: Title | None, image: jax.Array | None, begin: Sequence[int]
) -> tuple[jax.Array, jax.Array | None]:
  """Returns the tokens of answers, and which of them are real.

  Args:
    title: of W tokens, which comes first, if any.
    image: tokens [P, G, M] of an image, ends of rows included, if any.
    begin: of an image, behind a title; without one the prompt ends with it.

  Returns:
    [P, G, L] int32 and bool; None: all are real.
  """
  if title is None:
    assert image is not None
    return image, None
  parts = [title.tokens]
  if image is not None:
    first = jnp.asarray(begin, jnp.int32).reshape(1, 1, -1)
    shape = (*image.shape[:2], first.shape[-1])
    parts += [jnp.broadcast_to(first, shape), image]
  tokens = jnp.concatenate(parts, -1)
  fill = tokens.shape[-1] - title.tokens.shape[-1]
  real = jnp.pad(title.words, [(0, 0), (0, 0), (0, fill)], constant_values=True)
  return tokens, real


def silenced(logits: jax.Array, ids: Sequence[int]) -> jax.Array:
  """Returns logits [..., V] by which some tokens are never said."""
  silent = np.zeros(logits.shape[-1], bool)
  silent[np.asarray(ids)] = True
  shape = (1,) * (logits.ndim - 1) + (-1,)
  return jnp.where(silent.reshape(shape), _NEVER, logits)


def without_text(
  prompt: Prompt, begin: Sequence[int], *, bos_id: int, pad_id: int
) -> Prompt:
  """Returns prompts of BOS and the begin of an image, padded as long.

  As baaivision/Emu3's image_generation.py, whose unconditional branch has the
  same begin behind a text; here the text is empty, as a part of its training
  prompts was. Where a prompt has no begin at its end BOS alone is left.
  """
  last = jnp.asarray(begin)[None]  # [1, H]
  length = prompt.ids.shape[1]
  begun = jnp.all(prompt.ids[:, length - last.shape[1] :] == last, -1)
  kept = last.shape[1] * begun.astype(jnp.int32)  # [P]
  # BOS is place 0; what is before it is padding.
  places = jnp.arange(length)[None] - (length - 1 - kept)[:, None]  # [P, T]
  ids = jnp.where(places == 0, bos_id, prompt.ids)
  return Prompt(
    ids=jnp.where(places < 0, pad_id, ids),
    mask=places >= 0,
    images=prompt.images[:, :0],
  )
