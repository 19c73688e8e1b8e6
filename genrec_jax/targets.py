"""Targets: what rewards and evaluation compare generated images with.

Letters: P prompts, N history items, F future items, E the width of the
encoder's space, h w pixels.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core.types import Batch, PyTree
from genrec_jax.groups import at_least_float32
from genrec_jax.models.encoders import ImageEncoder


@struct.dataclass
class Targets:
  """Embeddings of each prompt's next title, history and future."""

  # [P, E] float32 unit vectors, the next item's title; None of an encoder that
  # reads no texts
  text: Any
  history: jax.Array  # [P, N, E] float32 unit vectors, oldest first
  history_mask: jax.Array  # [P, N] bool, True = a real item
  future: jax.Array  # [P, F, E] float32 unit vectors, the next item first
  future_mask: jax.Array  # [P, F] bool, True = a real item


def embed_targets(
  encoder: ImageEncoder, params: PyTree, batch: Batch
) -> Targets:
  """Embeds the batch's titles, history and future, each once.

  Once per prompt, not per sample: a group's samples share their targets.

  Args:
    encoder: CLIP, or another.
    params: its parameters.
    batch: P windows; images uint8; without a title there is no text.

  Returns:
    Targets, without gradients.
  """
  shown = batch.history.shape[1]  # N
  # [P, N + F, h, w, 3]
  pixels = jnp.concatenate([batch.history, batch.future], 1)
  embeds = encoder.embed_images(params, pixels.astype(jnp.float32) / 255)
  embeds = at_least_float32(embeds)  # [P, N + F, E]
  text = None
  if batch.title_ids is not None:
    text = at_least_float32(
      encoder.embed_texts(params, batch.title_ids, batch.title_mask)
    )
  return jax.lax.stop_gradient(
    Targets(
      text=text,
      history=embeds[:, :shown],
      history_mask=batch.history_mask,
      future=embeds[:, shown:],
      future_mask=batch.future_mask,
    )
  )


def of_quality(targets: Targets, logit_scale: jax.Array | float) -> Targets:
  """Returns targets for `rewards.cosines.quality`.

  Args:
    targets: in the space of an encoder that people's choices trained.
    logit_scale: [], its parameter of that name, a logarithm.
  """
  # A logit is a product with a text that long.
  scale = jnp.exp(jnp.asarray(logit_scale, jnp.float32))
  return dataclasses.replace(targets, text=scale * targets.text)
