"""Prefixes of a rollout, laid out for decoding; the unconditional one shared.

Without its last token, an unconditional prompt is the beginning of any longer
one of its batch; see `api`. So the longest serves all prompts of a device, as a
prompt serves its samples: it is kept once and read once a token. Letters: P
prompts, P' rows, two per prompt where guided, D groups of n prompts, T prompt
tokens, G samples, L layers, K kv heads, H head width.
"""

from collections.abc import Callable, Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core import sharding
from genrec_jax.core.types import KVCache, Prefix

# Tokens of a tile of keys and values, and from how many on a prefix is whole
# tiles, and shared: of a short one that would be much more to read.
_TILE = 128
_LONG = 1024


@struct.dataclass
class Guided:
  """Prefixes of both branches, of whose keys the unconditional are shared.

  The last token of a prompt is in none of the two: its keys depend on the
  prompt's length. Every cache begins with it.
  """

  conditional: Prefix  # of P prompts
  shared: Prefix  # of D groups; its mask is [D, n, T]
  last: KVCache  # of the last token, L x [P', K, 1, 1, H]
  hidden: jax.Array  # [P', D], as a prefix's


def laid_out(prefix: Prefix, *, guided: bool) -> Prefix | Guided:
  """Lays a prefix out for decoding, once per rollout.

  Args:
    prefix: of P' rows, as from `Llama.prefill`.
    guided: rows are both branches of prompts, as `guidance.interleave` has
      them.
  """
  rows, length = prefix.mask.shape
  groups = sharding.batch_shards()
  # With one prompt of its own a device has nothing to share.
  if not guided or length < _LONG or rows % (2 * groups) or rows == 2 * groups:
    return _split(prefix)
  return _shared(prefix, groups)


def _shared(prefix: Prefix, groups: int) -> Guided:
  """Keeps of D groups' unconditional rows the longest; see `Guided`."""
  length = prefix.mask.shape[-1]

  def pairs(x: jax.Array) -> jax.Array:
    """Splits rows [P', ...]: [D, n, 2, ...]."""
    # A group is what one device holds, so nothing travels.
    return x.reshape(groups, -1, 2, *x.shape[1:])

  mask = pairs(prefix.mask)  # [D, n, 2, T]
  counts = jnp.sum(mask[:, :, 1], -1, dtype=jnp.int32)  # [D, n]
  longest = jnp.argmax(counts, 1)  # [D]
  # Rows are left-padded: where a token of the longest stands in it, [D, 1, T].
  begins = length - jnp.max(counts, 1).reshape(-1, 1, 1)  # [D, 1, 1]
  places = jnp.arange(length).reshape(1, 1, -1) - begins
  seen = (places >= 0) & (places < counts[..., None] - 1)  # [D, n, T]

  def conditional(x: jax.Array) -> jax.Array:
    """Takes [P, K, T, H] of a layer's [P', K, T, H]."""
    return pairs(x)[:, :, 0].reshape(-1, *x.shape[1:])

  def shared(x: jax.Array) -> jax.Array:
    """Takes [D, K, T, H] of the same."""
    # Mapped over the groups, for which an index of both axes would gather.
    return jax.vmap(lambda rows, i: rows[i])(pairs(x)[:, :, 1], longest)

  def each(take: Callable[[jax.Array], jax.Array]) -> KVCache:
    keys, values = (tuple(map(take, x)) for x in (prefix.keys, prefix.values))
    return KVCache(keys, values)

  own = mask[:, :, 0].reshape(-1, length).at[:, -1].set(False)  # [P, T]
  kept, common = each(conditional), each(shared)
  return Guided(
    conditional=_split(Prefix(kept.keys, kept.values, own, prefix.hidden[::2])),
    shared=_split(Prefix(common.keys, common.values, seen, prefix.hidden)),
    last=each(lambda x: x[:, :, None, -1:]),  # [P', K, 1, 1, H]
    hidden=prefix.hidden,
  )


def _split(prefix: Prefix) -> Prefix:
  """Lays out one branch's keys and values; see `Prefix`.

  A long one is filled up, behind its end, with keys that no answer sees.
  Inside a decode loop a slice of the stack, or a transposed product, would be a
  copy at every token.
  """
  mask, fill = prefix.mask, 0
  if mask.shape[-1] >= _LONG:
    # Else GPUs copy all values at every code, to products of whole tiles.
    fill = -mask.shape[-1] % _TILE
    mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, fill)])

  # A layer at a time: of all layers' at once, each way of writing them would
  # be as large as all that the loop holds.
  def filled(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * 2 + [(0, fill), (0, 0)]) if fill else x

  # L x [P, K, T, H] to L x [P, K, H, T] and L x [P, K, T, H].
  return dataclasses.replace(
    prefix,
    keys=tuple(filled(x).swapaxes(-1, -2) for x in prefix.keys),
    values=tuple(filled(x) for x in prefix.values),
    mask=mask,
  )


def branches(prefix: Prefix | Guided) -> tuple[Prefix, ...]:
  """Returns what is attended to apart: one prefix, or that of each branch."""
  if isinstance(prefix, Guided):
    return prefix.conditional, prefix.shared
  return (prefix,)


def starts(prefix: Prefix | Guided) -> jax.Array:
  """Returns the number of the prefix's real tokens of each row, [P']."""
  counts = [
    # Of a shared prefix each of the n prompts has its own part: [D, n].
    jnp.sum(one.mask, -1, dtype=jnp.int32).reshape(-1)
    for one in branches(prefix)
  ]
  return jnp.stack(counts, 1).reshape(-1)


def seen(prefix: Prefix, num_samples: int) -> jax.Array:
  """Returns a branch's mask as `attention.attend` takes it.

  [P, T]; of a shared one [D, n G, T].
  """
  if prefix.mask.ndim == 2:
    return prefix.mask
  return jnp.repeat(prefix.mask, num_samples, 1)


def samples(prefix: Prefix, num_samples: int) -> int:
  """Returns the answers to each row of a branch's prefix: G, or n G."""
  return num_samples * (1 if prefix.mask.ndim == 2 else prefix.mask.shape[1])


def parted(prefix: Prefix | Guided, x: jax.Array) -> list[jax.Array]:
  """Returns [P', K, G, ...] as each branch has it.

  As it is; or [P, K, G, ...] and [D, K, n G, ...], as if the answers to all
  prompts of a group were to one.
  """
  if not isinstance(prefix, Guided):
    return [x]
  # Of a token's queries, keys and values; copies of caches would be long.
  pairs = x.reshape(*prefix.shared.mask.shape[:2], 2, *x.shape[1:])
  other = pairs[:, :, 1].swapaxes(1, 2)  # [D, K, n, G, ...]
  return [
    pairs[:, :, 0].reshape(-1, *x.shape[1:]),
    other.reshape(*other.shape[:2], -1, *x.shape[3:]),
  ]


def joined(prefix: Prefix | Guided, parts: Sequence[jax.Array]) -> jax.Array:
  """Undoes `parted`."""
  if not isinstance(prefix, Guided):
    return parts[0]
  first, other = parts
  d, n = prefix.shared.mask.shape[:2]
  other = other.reshape(d, -1, n, *first.shape[2:])  # [D, K, n, G, ...]
  pairs = [first.reshape(d, n, *first.shape[1:]), other.swapaxes(1, 2)]
  return jnp.stack(pairs, 2).reshape(-1, *first.shape[1:])


def before(
  prefix: Prefix | Guided, words: jax.Array | None, shape: tuple[int, int]
) -> jax.Array | None:
  """Returns which tokens before those that are counted caches hold.

  Args:
    prefix: of P' rows.
    words: [P', G, B] bool of those after the prompt's last token; None: B = 0.
    shape: (P', G).

  Returns:
    [P', G, B'] bool, True = a real one; None: B' = 0.
  """
  if not isinstance(prefix, Guided):
    return words
  # It is a real one of every prompt, and seen by all answers to it.
  last = jnp.ones((*shape, 1), bool)
  return last if words is None else jnp.concatenate([last, words], -1)
