"""Prefixes of a rollout, laid out for decoding; the unconditional one shared.

Without its last token, an unconditional prompt is the beginning of any longer
one of its batch; see `api`. So the longest serves all prompts of a device, as a
prompt serves its samples: it is kept once and read once a token. Letters: P
prompts, P' rows, two per prompt where guided, D groups of n prompts, T prompt
tokens, G samples, L layers, K kv heads, H head width, W model width.
"""

from collections.abc import Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core import sharding
from genrec_jax.core.types import KVCache, Prefix
from genrec_jax.nn import int8, token_attention

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
  hidden: jax.Array  # [P', W], as a prefix's


def worth_sharing(prompts: int, length: int) -> bool:
  """Returns whether unconditional prefixes of a batch are kept once."""
  groups = sharding.batch_shards()
  # With one prompt of its own a device has nothing to share.
  several = prompts % groups == 0 and prompts > groups
  return length >= _LONG and several and token_attention.shares_branches()


def laid_out(
  prefix: Prefix, other: Prefix | None = None, *, narrow: bool = False
) -> Prefix | Guided:
  """Lays a prefix out for decoding, once per rollout.

  Args:
    prefix: as from `Llama.prefill`, of all rows, or of P prompts.
    other: of the unconditional prompts to these, to be shared.
    narrow: round keys and values to eight bits; see `int8`.
  """
  if other is None:
    return _split(prefix, narrow)
  return _shared(prefix, other, narrow)


def _shared(conditional: Prefix, other: Prefix, narrow: bool) -> Guided:
  """Keeps of D groups' unconditional rows the longest; see `Guided`."""
  length = other.mask.shape[-1]
  # A group is what one device holds, so nothing travels.
  mask = other.mask.reshape(sharding.batch_shards(), -1, length)  # [D, n, T]
  counts = jnp.sum(mask, -1, dtype=jnp.int32)  # [D, n]
  longest = jnp.argmax(counts, 1)  # [D]
  # Rows are left-padded: where a token of the longest stands in it, [D, 1, T].
  begins = length - jnp.max(counts, 1).reshape(-1, 1, 1)  # [D, 1, 1]
  places = jnp.arange(length).reshape(1, 1, -1) - begins
  seen = (places >= 0) & (places < counts[..., None] - 1)  # [D, n, T]

  def shared(x: jax.Array) -> jax.Array:
    """Takes [L, D, K, T, H] of [L, P, K, T, H]."""
    rows = x.reshape(len(x), *counts.shape, *x.shape[2:])  # [L, D, n, ...]
    # Mapped over the groups, for which an index of both axes would gather.
    return jax.vmap(lambda x, i: x[:, i], (1, 0), 1)(rows, longest)

  def both(one: jax.Array, two: jax.Array, axis: int) -> jax.Array:
    """Interleaves rows [P, ...] along an axis: [P', ...]."""
    x = jnp.stack([one, two], axis + 1)
    return x.reshape(*one.shape[:axis], -1, *one.shape[axis + 1 :])

  def last(one: jax.Array, two: jax.Array) -> tuple[jax.Array, ...]:
    ends = both(one[..., None, -1:, :], two[..., None, -1:, :], 1)
    return tuple(ends)  # L x [P', K, 1, 1, H]

  own = conditional.mask.at[:, -1].set(False)  # [P, T]
  return Guided(
    conditional=_split(dataclasses.replace(conditional, mask=own), narrow),
    shared=_split(
      Prefix(shared(other.keys), shared(other.values), seen, other.hidden),
      narrow,
    ),
    last=KVCache(
      last(conditional.keys, other.keys),
      last(conditional.values, other.values),
    ),
    hidden=both(conditional.hidden, other.hidden, 0),
  )


def _split(prefix: Prefix, narrow: bool) -> Prefix:
  """Lays out one branch's keys and values; see `Prefix`.

  A long one is filled up, behind its end, with keys that no answer sees.
  Inside a decode loop a slice of the stack, or a transposed product, would be a
  copy at every token.
  """
  keys, values, mask = prefix.keys, prefix.values, prefix.mask
  if mask.shape[-1] >= _LONG:
    # Else GPUs copy all values at every code, to products of whole tiles.
    fill = -mask.shape[-1] % _TILE
    mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, fill)])
    keys, values = (
      jnp.pad(x, [(0, 0)] * 3 + [(0, fill), (0, 0)]) for x in (keys, values)
    )

  def apart(x: jax.Array) -> list[int8.Stored]:
    """Returns L x [P, K, T, H] of [L, P, K, T, H]."""
    return [int8.vectors(one) if narrow else one for one in x]

  return dataclasses.replace(
    prefix,
    keys=tuple(int8.transposed(one) for one in apart(keys)),
    values=tuple(apart(values)),
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
