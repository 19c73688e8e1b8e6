"""Classifier-free guidance: two branches of a prompt, run as one batch.

Letters: P prompts, T prompt tokens, D width, C codebook.
"""

import jax
import jax.numpy as jnp

from genrec_jax.core.types import Prompt, PyTree
from genrec_jax.models.api import Generator


def guide(
  conditional: jax.Array, unconditional: jax.Array, guidance: float
) -> jax.Array:
  """Returns guided logits l = u + w (c - u), [..., C].

  Source: arXiv 2207.12598, in the form transformers uses (w = 1: no guidance).
  """
  return unconditional + guidance * (conditional - unconditional)


def interleave(conditional: jax.Array, unconditional: jax.Array) -> jax.Array:
  """Interleaves the rows of two [P, ...]: [2P, ...].

  A prompt's two rows stay on its device; one half after the other would move
  rows between devices, where P is sharded, in both directions.
  """
  rows = jnp.stack([conditional, unconditional], 1)  # [P, 2, ...]
  return rows.reshape(-1, *conditional.shape[1:])


def separate(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Undoes `interleave`: returns (conditional, unconditional), [P, ...]."""
  pairs = rows.reshape(-1, 2, *rows.shape[1:])  # [P, 2, ...]
  return pairs[:, 0], pairs[:, 1]


def embed_both(
  model: Generator, params: PyTree, prompt: Prompt
) -> tuple[jax.Array, jax.Array]:
  """Returns embeddings [2P, T, D] and mask [2P, T] of interleaved branches."""
  # As long as the prompt, so that both fit one batch.
  other = model.unconditional(prompt)
  embeds = interleave(model.embed(params, prompt), model.embed(params, other))
  return embeds, interleave(prompt.mask, other.mask)
