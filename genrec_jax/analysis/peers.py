"""The same step as others write it: a prompt repeated for each of its samples.

T2I-R1 (CaraJ7/T2I-R1) and TRL's GRPO trainer repeat a prompt G times, and then
know of no groups: in sampling each copy is prefilled and has keys of its own,
and in training it goes through all layers with one answer behind it. Rewards
are as here. Letters: P' rows, G samples, T prompt tokens, I codes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax.core.types import KVCache, Prefix, PyTree, Title
from genrec_jax.models.api import Generator, Vocabulary


@dataclasses.dataclass(frozen=True)
class Repeated:
  """A generator that computes the same as `model`, each sample by itself.

  Images are read, and tokens embedded, once a prompt, which favours it.

  Attributes:
    model: the generator.
    num_samples: G.
  """

  model: Generator
  num_samples: int

  def __getattr__(self, name: str) -> Any:
    """All else is the model's own."""
    return getattr(self.model, name)

  def _each(self, x: jax.Array) -> jax.Array:
    """Repeats rows [P', ...]: [P' G, ...]."""
    return jnp.repeat(x, self.num_samples, 0)

  def prefill(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> Prefix:
    """Runs G copies of each prompt; `hidden` is [P', D] nevertheless."""
    # All copies' last states are equal: sampling wants one of each prompt.
    prefix = self.model.prefill(params, self._each(embeds), self._each(mask))
    hidden = prefix.hidden[:: self.num_samples]
    return dataclasses.replace(prefix, hidden=hidden)

  def shares_unconditional(self, prompts: int, length: int) -> bool:
    """Finds nothing that prompts have in common."""
    return False

  def init_cache(self, prefix: Any, num_samples: int, length: int) -> KVCache:
    """Returns the cache of one answer to each copy."""
    # The prefix has a row for each of the G copies already.
    return self.model.init_cache(prefix, 1, length)

  def decode_step(
    self,
    vocabulary: Vocabulary,
    decode_params: PyTree,
    prefix: Any,
    cache: KVCache,
    tokens: jax.Array,
    index: jax.Array,
    before: jax.Array | None = None,
    *,
    unread: int = 0,
  ) -> tuple[jax.Array, KVCache]:
    """Appends tokens [P', G]: one to the answer of each copy."""
    logits, cache = self.model.decode_step(
      vocabulary,
      decode_params,
      prefix,
      cache,
      _apart(tokens),
      index,
      None if before is None else _apart(before),
      unread=unread,
    )
    return logits.reshape(*tokens.shape, -1), cache

  def teacher_forced_hidden(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    codes: jax.Array | None,
    title: Title | None = None,
  ) -> jax.Array:
    """Runs every answer behind a copy of its prompt."""
    hidden = self.model.teacher_forced_hidden(
      params,
      self._each(embeds),
      self._each(mask),
      None if codes is None else _apart(codes),
      jax.tree.map(_apart, title),
    )  # [P' G, 1, W + I, D]
    return hidden.reshape(-1, self.num_samples, *hidden.shape[2:])


def _apart(x: jax.Array) -> jax.Array:
  """Makes prompts of samples: [P', G, ...] to [P' G, 1, ...]."""
  return x.reshape(-1, 1, *x.shape[2:])
