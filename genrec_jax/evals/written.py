"""Titles that models write with their images: read, and scored.

Letters: U users, G samples, W tokens of a title, E the width of an encoder.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from genrec_jax.core.types import Title
from genrec_jax.data import titles, world
from genrec_jax.runtime.distributed import to_host
from genrec_jax.targets import Targets


class Written(NamedTuple):
  """The titles of U users' samples; all arrays are numpy."""

  texts: np.ndarray  # [U, G] of str
  cut: np.ndarray  # [U, G] bool, True = had not ended at the maximum
  embeds: np.ndarray  # [U, G, E] float32, CLIP's unit vectors
  # [U, G, 5] int, -1 where a title names none; None where not known.
  attributes: np.ndarray | None

  def to(self, source: np.ndarray) -> "Written":
    """Returns those of user source[u] for every user u: [U] int."""
    return Written(
      self.texts[source],
      self.cut[source],
      self.embeds[source],
      None if self.attributes is None else self.attributes[source],
    )


def read(
  title: Title, decode: titles.Decode, clip: Any, *, known: bool
) -> Written:
  """Returns what titles [P, G, W] of a rollout say.

  Args:
    title: on the devices.
    decode: of the generator's tokenizer.
    clip: an encoder with `embed_texts`.
    known: whether they speak of the synthetic world.
  """
  tokens, words = to_host(title.tokens), to_host(title.words)
  shape = tokens.shape[:2]
  texts = titles.texts(tokens, words, decode)
  embeds = to_host(clip.embed_texts(texts)).astype(np.float32)
  attributes = None
  if known:
    named = [world.read_title(text) for text in texts]
    attributes = np.stack(named).reshape(*shape, -1)
  return Written(
    np.asarray(texts, object).reshape(shape),
    words[..., -1],
    embeds.reshape(*shape, -1),
    attributes,
  )


def stacked(parts: Sequence[Written | None]) -> Written | None:
  """Returns the titles of all users of some parts; None: there are none."""
  found = [part for part in parts if part is not None]
  if not found:
    return None
  attributes = [x.attributes for x in found if x.attributes is not None]
  return Written(
    np.concatenate([x.texts for x in found]),
    np.concatenate([x.cut for x in found]),
    np.concatenate([x.embeds for x in found]),
    np.concatenate(attributes) if attributes else None,
  )


def scores(
  written: Written,
  images: np.ndarray,
  targets: Targets,
  shown: np.ndarray | None,
  wants: np.ndarray | None,
) -> dict[str, np.ndarray]:
  """Scores titles: {metric: [U] float64}, means over a user's samples.

  Args:
    written: the titles.
    images: [U, G, E] CLIP's unit vectors of their images.
    targets: in CLIP's space.
    shown: [U, G, 5] attributes of the images, by the exact reader; None: not
      known.
    wants: [U, 3] attributes that users want; None: not known.
  """
  found = {
    "title_text_clip": np.einsum("uge,ue->ug", written.embeds, targets.text),
    "title_image_clip": np.einsum("uge,uge->ug", written.embeds, images),
    "title_cut": written.cut,
  }
  if written.attributes is not None and shown is not None:
    found["title_agreement"] = (written.attributes == shown).mean(-1)
  if written.attributes is not None and wants is not None:
    found["title_match"] = world.preference_match(
      written.attributes, wants[:, None]
    )
  return {k: np.asarray(v, np.float64).mean(-1) for k, v in found.items()}
