"""Llama decoder: grouped-query attention, RoPE, SwiGLU, tied or untied head.

Same function as `LlamaModel` of transformers 5.23 with default RoPE. Answers
attend to a prefix that their prompt's samples share. Letters: P prompts, T
prompt tokens, G samples, I answer tokens, L layers, D width, V vocabulary,
N heads, K kv heads, R = N / K, H head width.
"""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core import sharding
from genrec_jax.core.types import KVCache, Prefix, PyTree
from genrec_jax.models import llama_prefix
from genrec_jax.models.llama_layers import Attend, Block, Rope, rotary
from genrec_jax.models.llama_prefix import Guided
from genrec_jax.nn import attention, int8, layers, token_attention

# Tensor parallel over 'model' (heads and MLP width), the other axis over 'data'
# (FSDP). Of the vocabulary, whose size may be odd, only 'model' takes parts.
RULES = (
  (r"embed_tokens/embedding", P("model", "data")),
  (r"lm_head/kernel", P("data", "model")),
  (r"layers/self_attn/[qkv]_proj/kernel", P(None, "data", "model")),
  (r"layers/self_attn/o_proj/kernel", P(None, "model", "data")),
  (r"layers/mlp/(gate|up)_proj/kernel", P(None, "data", "model")),
  (r"layers/mlp/down_proj/kernel", P(None, "model", "data")),
  (r"layers/(input|post_attention)_layernorm/scale", P()),
  (r"norm/scale", P()),
)
# Of a layer by itself, paths from there.
_LAYERS = tuple(
  (pattern.removeprefix("layers/"), spec)
  for pattern, spec in RULES
  if pattern.startswith("layers/")
)
# Kernels that may have LoRA adapters next to them; see `nn.lora`.
ADAPTABLE = r"layers/(self_attn/[qkvo]_proj|mlp/(gate|up|down)_proj)/kernel"


def _append(
  cache: int8.Stored, new: jax.Array, index: jax.Array | int
) -> int8.Stored:
  """Writes keys or values [P, K, G, T, H] into a cache from `index` on."""

  def write(cache: jax.Array, new: jax.Array, axis: int) -> jax.Array:
    # A cache leaves out those of P, K and G that are 1; see `Llama.init_cache`.
    new = new.reshape(*cache.shape[:axis], *new.shape[axis:])
    place: list[jax.Array | int] = [0] * cache.ndim
    place[axis] = index
    return jax.lax.dynamic_update_slice(cache, new, place)

  if not isinstance(cache, int8.Vectors):
    return write(cache, new, -2)
  narrow = int8.vectors(new)
  return dataclasses.replace(
    cache,
    values=write(cache.values, narrow.values, -2),
    scale=write(cache.scale, narrow.scale, -1),
  )


@dataclasses.dataclass(frozen=True)
class Llama:
  """Static configuration and the functions of the language model."""

  vocab_size: int
  width: int
  mlp_width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_width: int
  rope_base: float = 10000.0
  norm_epsilon: float = 1e-6
  tied: bool = False  # the head is the embedding, transposed
  dtype: str = "float32"
  remat: str = "none"

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 3)
    normal = nn.initializers.normal(0.02)
    shape = (self.vocab_size, self.width)
    x = jnp.zeros((1, 1, 1, self.width))
    rope = self._rope(jnp.zeros((1, 1), jnp.int32))
    params = {
      "embed_tokens": {"embedding": normal(keys[0], shape)},
      "layers": layers.init_stack(
        Block(self),
        keys[1],
        self.num_layers,
        x,
        rope,
        lambda q, k, v: (q, None),  # parameters do not depend on it
      ),
      "norm": {"scale": jnp.ones(self.width)},
    }
    if not self.tied:
      params["lm_head"] = {"kernel": normal(keys[2], shape[::-1])}
    return params

  def embed(self, params: PyTree, ids: jax.Array) -> jax.Array:
    """Looks up ids [...]: [..., D]."""
    # Cast after the look-up: not the whole table.
    return params["embed_tokens"]["embedding"][ids].astype(self.dtype)

  def logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """Returns next-token logits [..., V] float32 of hidden states [..., D]."""
    if self.tied:
      kernel = params["embed_tokens"]["embedding"].T
    else:
      kernel = params["lm_head"]["kernel"]
    return project(hidden, kernel, self.dtype)

  def hidden_states(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Runs left-padded rows: [P, T, D] and bool [P, T] to [P, T, D]."""
    hidden, _ = self._run(params, embeds, mask)
    return self._norm(params, hidden)

  def prefill(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> Prefix:
    """Runs left-padded prompts and keeps what their answers attend to.

    Args:
      params: as from `init`.
      embeds: [P, T, D].
      mask: [P, T] bool, True = a real token; the last column all True.

    Returns:
      The prefix, its `hidden` being that of the last token.
    """
    hidden, (keys, values) = self._run(params, embeds, mask)
    # Those are [L, P, K, 1, T, H]: a prompt is one sample.
    return Prefix(
      keys=keys[:, :, :, 0],
      values=values[:, :, :, 0],
      mask=mask,
      hidden=self._norm(params, hidden[:, -1]),
    )

  def forward_shared_prefix(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    answers: jax.Array,
    answer_mask: jax.Array | None = None,
  ) -> jax.Array:
    """Runs prompts and G answers to each, which share it, in one pass.

    A layer's weights serve both at once: they are read, sent between devices
    and given a gradient once.

    Args:
      params: as from `init`.
      embeds: of the prompts, [P, T, D].
      mask: [P, T] bool, True = a real token; the last column all True.
      answers: [P, G, I, D], the first at the position after the prompt.
      answer_mask: [P, G, I] bool, True = a real token of an answer; others take
        no position and are not attended to. None: all are real.

    Returns:
      [P, G, 1 + I, D] hidden states after the final norm: that of the prompt's
      last token, and those of the answer's.
    """
    p, g, length, d = answers.shape
    start = jnp.sum(mask, -1, dtype=jnp.int32)  # [P]
    # Every answer begins where its prompt ends, as if it were the only one.
    places = jnp.arange(length)[None, None]  # [1, 1, I]
    if answer_mask is not None:
      places = _positions(answer_mask)  # [P, G, I]
    after = start[:, None, None] + places
    after = jnp.broadcast_to(after, (p, g, length)).reshape(p, -1)  # [P, G I]
    # [P, T + G I, D]
    x = jnp.concatenate([embeds, answers.reshape(p, -1, d)], 1)
    hidden, _ = self._layers(
      params,
      x,
      jnp.concatenate([_positions(mask), after], 1),
      lambda q, k, v: (
        attention.attend_shared(q, k, v, mask, g, answer_mask),
        None,
      ),
    )
    t = embeds.shape[1]
    # What predicts an answer's first token is the same state for all of them.
    last = jnp.broadcast_to(hidden[:, None, t - 1 : t], (p, g, 1, d))
    rest = hidden[:, t:].reshape(p, g, length, d)
    return self._norm(params, jnp.concatenate([last, rest], 2))

  def decode_params(self, params: PyTree) -> PyTree:
    """Casts to the compute type and splits the stack, once per rollout.

    Slicing or casting a stack at every token would copy all of it each time.
    """
    params = int8.cast(
      {name: params[name] for name in ("layers", "norm")}, self.dtype
    )
    return params | {"layers": unstack(params["layers"], self.num_layers)}

  def text_decode_params(self, params: PyTree) -> PyTree:
    """Returns `decode_params` with table and head of words, cast as well."""
    # A tied head is the table itself.
    names = params.keys() & {"embed_tokens", "lm_head"}
    ends = {name: params[name] for name in names}
    ends = jax.tree.map(lambda x: x.astype(self.dtype), ends)
    return ends | self.decode_params(params)

  def init_cache(
    self, prefix: Prefix | Guided, num_samples: int, length: int
  ) -> KVCache:
    """Returns zeros for G answers of `length` tokens to each prompt.

    Before them, where the prefix leaves it out, comes the prompt's last token.
    """
    last = getattr(prefix, "last", None)
    # In as many bits as the prompt's, whose keys are seen next to them.
    prompt = llama_prefix.branches(prefix)[0]
    narrow = isinstance(prompt.keys[0], int8.Vectors)

    def empty(kept: tuple[jax.Array, ...] | None) -> tuple[int8.Stored, ...]:
      # One array each: buffers updated in place must not be shared.
      found = []
      for i in range(self.num_layers):
        parts = kept and llama_prefix.parted(prefix, kept[i])
        for b, one in enumerate(llama_prefix.branches(prefix)):
          answers = llama_prefix.samples(one, num_samples)
          rows = (one.mask.shape[0], self.num_kv_heads, answers)  # P, K, G
          room = length + bool(parts)
          # With axes of length 1 XLA's CPU compiler copies the cache at each
          # token, four times.
          shape = (*(n for n in rows if n > 1), room, self.head_width)
          zeros = int8.zeros if narrow else jnp.zeros
          cache = zeros(shape, self.dtype)
          if parts:  # [P, K, 1, 1, H], of n prompts [D, K, n, 1, H]
            cache = _append(cache, jnp.repeat(parts[b], num_samples, 2), 0)
          found.append(cache)
      return tuple(found)

    return KVCache(
      keys=empty(last and last.keys), values=empty(last and last.values)
    )

  def decode_step(
    self,
    decode_params: PyTree,
    prefix: Prefix | Guided,
    cache: KVCache,
    embeds: jax.Array,
    index: jax.Array,
    before: jax.Array | None = None,
    *,
    unread: int = 0,
  ) -> tuple[jax.Array, KVCache]:
    """Appends one token to each answer.

    Args:
      decode_params: as from `decode_params`.
      prefix: of P prompts, as from `llama_prefix.laid_out`.
      cache: of G answers, B + `index` tokens filled.
      embeds: [P, G, D], embeddings of token number `index`.
      index: [] int32.
      before: [P, G, B] bool, True = a real one of the B tokens that an answer
        holds before those that `index` counts; None: B = 0.
      unread: tokens at the end of the cache which are empty still, and not
        looked at.

    Returns:
      [P, G, D] hidden states after the final norm, and the new cache.
    """
    start = llama_prefix.starts(prefix)  # [P]
    rows = embeds.shape[0], embeds.shape[1]  # P, G
    before = llama_prefix.before(prefix, before, rows)
    # What is empty of the rest is masked.
    length, filled = cache.keys[0].shape[-2], None
    if before is None:
      slot, filled = index, index + 1
      rope = self._rope((start + index)[:, None])
      seen = (jnp.arange(length) <= index).reshape(1, 1, -1)
    else:
      slot = before.shape[-1] + index
      # Answers that hold less begin sooner: [P, G], as G rows of one token.
      places = start[:, None] + jnp.sum(before, -1, dtype=jnp.int32) + index
      rope = _per_sample(self._rope(places))
      seen = jnp.pad(
        before,
        [(0, 0), (0, 0), (0, length - before.shape[-1])],
        constant_values=True,
      ) & (jnp.arange(length) <= slot).reshape(1, 1, -1)
    mask = seen[:, None, :, None, None]  # [P, K, G, R, T, S]
    branches = llama_prefix.branches(prefix)
    masks = llama_prefix.parted(prefix, mask)
    prompts = [llama_prefix.seen(one, embeds.shape[1]) for one in branches]
    x = sharding.constrain_batch(embeds.astype(self.dtype)[:, :, None])
    keys, values = [], []
    # Unrolled: a scan over layers would copy its slice of the stack at each.
    for i, layer in enumerate(decode_params["layers"]):

      def attend(q, k, v, i=i):
        out, kept = [], []
        parts = zip(
          *(llama_prefix.parted(prefix, x) for x in (q, k, v)), strict=True
        )
        for b, (q, k, v) in enumerate(parts):
          place = i * len(branches) + b
          k = _append(cache.keys[place], k, slot)
          v = _append(cache.values[place], v, slot)
          kept.append((k, v))
          full = (*q.shape[:3], -1, self.head_width)  # [P, K, G, I, H]
          k, v = int8.reshaped(k, full), int8.reshaped(v, full)
          prompt = branches[b].keys[i], branches[b].values[i], prompts[b]
          out.append(
            token_attention.attend(
              q, k, v, masks[b], prompt, filled=filled, unread=unread
            )
          )
        return llama_prefix.joined(prefix, out), kept

      x, kept = layers.apply(Block(self), layer, x, rope, attend)
      x = sharding.constrain_batch(x)
      keys += [k for k, _ in kept]
      values += [v for _, v in kept]
    return (
      self._norm(decode_params, x[:, :, 0]),
      KVCache(keys=tuple(keys), values=tuple(values)),
    )

  def _run(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the states [P, T, D] of `_layers`, and keys and values."""

    def attend(q, k, v):
      return attention.attend_shared(q, k, v, mask, 0), (k, v)

    return self._layers(params, embeds, _positions(mask), attend)

  def _layers(
    self,
    params: PyTree,
    embeds: jax.Array,
    positions: jax.Array,
    attend: Attend,
  ) -> tuple[jax.Array, Any]:
    """Runs the stack over [P, T, D]; returns that, and what `attend` keeps."""
    rope = self._rope(positions)

    def step(x, layer):
      return layers.apply(Block(self), layer, x, rope, attend)

    x = embeds.astype(self.dtype)[:, None]
    hidden, kept = layers.scan_stack(
      step, x, params["layers"], self.remat, _LAYERS
    )
    return hidden[:, 0], kept

  def _rope(self, positions: jax.Array) -> Rope:
    """Returns cosines and sines [P, 1, T, 1, H] of positions [P, T]."""
    cos, sin = rotary(positions, self.head_width, self.rope_base)
    return cos[:, None, :, None], sin[:, None, :, None]

  def _norm(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    norm = layers.RMSNorm(self.norm_epsilon, self.dtype)
    return layers.apply(norm, params["norm"], hidden)


def _per_sample(rope: Rope) -> Rope:
  """Lays [P, 1, T, 1, H], T a token of each sample, out as [P, G, 1, 1, H]."""
  cos, sin = rope
  return cos.swapaxes(1, 2), sin.swapaxes(1, 2)


def project(hidden: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
  """Returns logits [..., V] float32 of states [..., D] and a head [D, V]."""
  return jnp.einsum(
    "...d,dv->...v",
    hidden.astype(dtype),
    kernel.astype(dtype),
    preferred_element_type=jnp.float32,
  )


def _positions(mask: jax.Array) -> jax.Array:
  """Numbers the real tokens of rows [..., T] from 0."""
  return jnp.maximum(jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, 0)


def unstack(tree: PyTree, length: int) -> tuple[PyTree, ...]:
  """Splits the leading axis [L] of every array into a tuple of L trees."""
  return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(length))
