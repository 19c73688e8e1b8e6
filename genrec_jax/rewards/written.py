"""Rewards of written titles: their image, the real next title, own eyes.

Titles are written in the generator's tokens and read in an encoder's, which no
table can translate: the words go to the host and come back as its tokens, a few
bytes a sample. Letters: P prompts, G samples per prompt, W tokens of a title,
E the width of an encoder's space.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.core.types import PyTree, Title
from genrec_jax.data import titles
from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.rewards import cosines
from genrec_jax.targets import Targets


class Beside(NamedTuple):
  """What a written title is compared with."""

  images: jax.Array  # [P, G, E] unit vectors, of the samples
  targets: Targets


@dataclasses.dataclass(frozen=True, eq=False)
class Translator:
  """Translates titles from a generator's tokens into an encoder's.

  Attributes:
    decode: tokens of a title to its text.
    encode: texts to ids and mask, [B, S] both, as long for any texts.
  """

  decode: titles.Decode
  encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

  def translate(
    self, tokens: np.ndarray, words: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids [..., S] int32 and mask [..., S] of titles [..., W]."""
    tokens, words = np.asarray(tokens), np.asarray(words)
    ids, mask = self.encode(titles.texts(tokens, words, self.decode))
    shape = (*tokens.shape[:-1], ids.shape[-1])
    return ids.astype(np.int32).reshape(shape), mask.reshape(shape)


def embed_titles(
  encoder: ImageEncoder, params: PyTree, title: Title, translator: Translator
) -> jax.Array:
  """Returns unit vectors [P, G, E] of written titles.

  Args:
    encoder: with a text tower.
    params: its parameters.
    title: [P, G, W].
    translator: into its tokens.
  """
  size = translator.encode([""])[0].shape[-1]  # S

  def ask(tokens: jax.Array, words: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = (*tokens.shape[:-1], size)
    results = (
      jax.ShapeDtypeStruct(shape, jnp.int32),
      jax.ShapeDtypeStruct(shape, jnp.bool_),
    )
    return jax.pure_callback(translator.translate, results, tokens, words)

  if not jax.sharding.get_abstract_mesh().empty:
    # Each device asks for its own rows: nothing is gathered.
    ask = jax.shard_map(
      ask,
      in_specs=(sharding.BATCH, sharding.BATCH),
      out_specs=(sharding.BATCH, sharding.BATCH),
      check_vma=False,  # it cannot see through a callback
    )
  ids, mask = ask(title.tokens, title.words)  # [P, G, S] both
  flat = (x.reshape(-1, size) for x in (ids, mask))
  return encoder.embed_texts(params, *flat).reshape(*ids.shape[:-1], -1)


def consistency(embeds: jax.Array, beside: Beside) -> jax.Array:
  """Returns each title's cosine with the image of the same answer: [P, G].

  Args:
    embeds: [P, G, E] unit vectors of the written titles.
    beside: the images.
  """
  rows = embeds.reshape(-1, 1, embeds.shape[-1])  # [P G, 1, E]
  items = beside.images.reshape(rows.shape)
  return cosines.compare(rows, items).reshape(embeds.shape[:-1])


def title(embeds: jax.Array, beside: Beside) -> jax.Array:
  """Returns each title's cosine with the real next item's title: [P, G].

  Args:
    embeds: [P, G, E] unit vectors of the written titles.
    beside: the targets.
  """
  return cosines.text(embeds, beside.targets)
