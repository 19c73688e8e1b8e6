"""Llama decoder: grouped-query attention, RoPE, SwiGLU, tied or untied head.

Same function as `LlamaModel` of transformers 5.23 with default RoPE. Answers
attend to a prefix that their prompt's samples share. Letters: P prompts, T
prompt tokens, G samples, I answer tokens, L layers, D width, V vocabulary,
N heads, K kv heads, R = N / K, H head width.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from genrec_jax.core import sharding
from genrec_jax.core.types import KVCache, Prefix, PyTree
from genrec_jax.nn import attention, layers

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
# The kernels that LoRA adapters may stand beside; see `nn.lora`.
ADAPTABLE = r"layers/(self_attn/[qkvo]_proj|mlp/(gate|up|down)_proj)/kernel"


def rotary(
  positions: jax.Array, head_width: int, base: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines and sines [..., H] of positions [...]; float32.

  Source: arXiv 2104.09864, in the half-split order of transformers.
  """
  exponents = jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width
  angles = positions.astype(jnp.float32)[..., None] * jnp.reshape(
    base**-exponents, (1,) * positions.ndim + (-1,)
  )
  angles = jnp.concatenate([angles, angles], -1)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates [..., H] by angles of the same rank; float32 inside."""
  h = x.astype(jnp.float32)
  low, high = jnp.split(h, 2, -1)
  return (h * cos + jnp.concatenate([-high, low], -1) * sin).astype(x.dtype)


class Attention(nn.Module):
  """Self-attention, of whom to whom is the caller's."""

  config: "Llama"

  @nn.compact
  def __call__(self, x, rope, attend):
    """Maps [P, G, T, D] to the same shape; see `Block`."""
    c = self.config
    p, g, t, _ = x.shape
    cos, sin = rope

    def project(heads, name):
      dense = layers.Linear(heads * c.head_width, c.dtype, False, name=name)
      return dense(x).reshape(p, g, t, heads, c.head_width)

    q = rotate(project(c.num_heads, "q_proj"), cos, sin)
    q = q.reshape(p, g, t, c.num_kv_heads, -1, c.head_width)
    q = q.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
    k = rotate(project(c.num_kv_heads, "k_proj"), cos, sin)
    k = k.transpose(0, 3, 1, 2, 4)  # [P, K, G, T, H]
    v = project(c.num_kv_heads, "v_proj").transpose(0, 3, 1, 2, 4)
    out, kept = attend(q, k, v)
    out = out.transpose(0, 2, 4, 1, 3, 5).reshape(p, g, t, -1)
    dense = layers.Linear(c.width, c.dtype, False, name="o_proj")
    return dense(out), kept


def _append(cache, new, index):
  """Writes keys or values [P, K, G, T, H] into a cache from `index` on."""
  new = new.reshape(*cache.shape[:-2], *new.shape[-2:])
  return jax.lax.dynamic_update_slice(
    cache, new, (0,) * (cache.ndim - 2) + (index, 0)
  )


class GatedMLP(nn.Module):
  """SwiGLU; arXiv 2002.05202."""

  config: "Llama"

  @nn.compact
  def __call__(self, x):
    """Maps [..., D] to the same shape."""
    c = self.config

    def dense(width, name):
      return layers.Linear(width, c.dtype, False, name=name)

    h = nn.silu(dense(c.mlp_width, "gate_proj")(x))
    h *= dense(c.mlp_width, "up_proj")(x)
    return dense(c.width, "down_proj")(h)


class Block(nn.Module):
  """One decoder layer."""

  config: "Llama"

  @nn.compact
  def __call__(self, x, rope, attend):
    """Runs the layer.

    Args:
      x: [P, G, T, D].
      rope: cosines and sines of the positions, [P, 1, T, 1, H] each.
      attend: maps queries [P, K, G, R, T, H], keys and values [P, K, G, T, H]
        to what the queries attend to, shaped as they, and what is to be kept.

    Returns:
      [P, G, T, D], and what `attend` keeps.
    """
    c = self.config
    norm = layers.RMSNorm(c.norm_epsilon, c.dtype, name="input_layernorm")
    h, kept = Attention(c, name="self_attn")(norm(x), rope, attend)
    x += h
    norm = layers.RMSNorm(
      c.norm_epsilon, c.dtype, name="post_attention_layernorm"
    )
    return x + GatedMLP(c, name="mlp")(norm(x)), kept


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
    draw = nn.initializers.normal(0.02)
    shape = (self.vocab_size, self.width)
    x = jnp.zeros((1, 1, 1, self.width))
    rope = self._rope(jnp.zeros((1, 1), jnp.int32))
    params = {
      "embed_tokens": {"embedding": draw(keys[0], shape)},
      "layers": layers.init_stack(
        Block(self),
        keys[1],
        self.num_layers,
        x,
        rope,
        lambda q, k, v: (q, None),
      ),
      "norm": {"scale": jnp.ones(self.width)},
    }
    if not self.tied:
      params["lm_head"] = {"kernel": draw(keys[2], shape[::-1])}
    return params

  def embed(self, params: PyTree, ids: jax.Array) -> jax.Array:
    """Looks up ids [...]: [..., D]."""
    return params["embed_tokens"]["embedding"][ids].astype(self.dtype)

  def logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """Returns next-token logits [..., V] float32 of hidden states [..., D]."""
    if self.tied:
      kernel = params["embed_tokens"]["embedding"].T
    else:
      kernel = params["lm_head"]["kernel"]
    return jnp.einsum(
      "...d,dv->...v",
      hidden.astype(self.dtype),
      kernel.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )

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
  ) -> jax.Array:
    """Runs prompts and G answers to each, which share it, in one pass.

    A layer's weights serve both at once: they are read, sent between devices
    and given a gradient once.

    Args:
      params: as from `init`.
      embeds: of the prompts, [P, T, D].
      mask: [P, T] bool, True = a real token; the last column all True.
      answers: [P, G, I, D], the first at the position after the prompt.

    Returns:
      [P, G, 1 + I, D] hidden states after the final norm: that of the prompt's
      last token, and those of the answer's.
    """
    p, g, length, d = answers.shape
    start = jnp.sum(mask, -1, dtype=jnp.int32)
    after = start[:, None, None] + jnp.arange(length)[None, None]
    after = jnp.broadcast_to(after, (p, g, length)).reshape(p, -1)
    x = jnp.concatenate([embeds, answers.reshape(p, -1, d)], 1)
    hidden, _ = self._layers(
      params,
      x,
      jnp.concatenate([_positions(mask), after], 1),
      lambda q, k, v: (attention.attend_shared(q, k, v, mask, g), None),
    )
    t = embeds.shape[1]
    last = jnp.broadcast_to(hidden[:, None, t - 1 : t], (p, g, 1, d))
    rest = hidden[:, t:].reshape(p, g, length, d)
    return self._norm(params, jnp.concatenate([last, rest], 2))

  def decode_params(self, params: PyTree) -> PyTree:
    """Casts to the compute type and splits the stack, once per rollout.

    Slicing or casting a stack at every token would copy all of it each time.
    """
    params = jax.tree.map(
      lambda x: x.astype(self.dtype),
      {name: params[name] for name in ("layers", "norm")},
    )
    return params | {"layers": unstack(params["layers"], self.num_layers)}

  def init_cache(
    self, prefix: Prefix, num_samples: int, length: int
  ) -> KVCache:
    """Returns zeros for G answers of `length` tokens to each prompt."""
    rows = (prefix.mask.shape[0], self.num_kv_heads, num_samples)
    # With axes of length 1 XLA's CPU compiler copies the cache at each token,
    # four times.
    shape = (*(n for n in rows if n > 1), length, self.head_width)
    # One array each: buffers updated in place must not be shared.
    empty = [jnp.zeros(shape, self.dtype) for _ in range(2 * self.num_layers)]
    return KVCache(
      keys=tuple(empty[: self.num_layers]),
      values=tuple(empty[self.num_layers :]),
    )

  def decode_step(
    self,
    decode_params: PyTree,
    prefix: Prefix,
    cache: KVCache,
    embeds: jax.Array,
    index: jax.Array,
  ) -> tuple[jax.Array, KVCache]:
    """Appends one token to each answer.

    Args:
      decode_params: as from `decode_params`.
      prefix: of P prompts, as from `split_prefix`.
      cache: of G answers, `index` tokens filled.
      embeds: [P, G, D], embeddings of token number `index`.
      index: [] int32.

    Returns:
      [P, G, D] hidden states after the final norm, and the new cache.
    """
    start = jnp.sum(prefix.mask, -1, dtype=jnp.int32)
    rope = self._rope((start + index)[:, None])
    mask = jnp.arange(cache.keys[0].shape[-2]) <= index
    mask = mask.reshape(1, 1, 1, 1, 1, -1)
    x = sharding.constrain_batch(embeds.astype(self.dtype)[:, :, None])
    keys, values = [], []
    for i, layer in enumerate(decode_params["layers"]):

      def attend(q, k, v, i=i):
        kept = (
          _append(cache.keys[i], k, index),
          _append(cache.values[i], v, index),
        )
        own = [x.reshape(*q.shape[:3], -1, self.head_width) for x in kept]
        shared = prefix.keys[i], prefix.values[i], prefix.mask
        return attention.attend(q, own[0], own[1], mask, shared), kept

      x, (k, v) = layers.apply(Block(self), layer, x, rope, attend)
      x = sharding.constrain_batch(x)
      keys.append(k)
      values.append(v)
    return (
      self._norm(decode_params, x[:, :, 0]),
      KVCache(keys=tuple(keys), values=tuple(values)),
    )

  def _run(self, params, embeds, mask):
    """Returns the states [P, T, D] of `_layers`, and keys and values."""
    seen = mask[:, None, None, None, None]

    def attend(q, k, v):
      return attention.attend(q, k, v, seen, causal=True), (k, v)

    return self._layers(params, embeds, _positions(mask), attend)

  def _layers(self, params, embeds, positions, attend):
    """Runs the stack over [P, T, D]; returns that, and what `attend` keeps."""
    rope = self._rope(positions)

    def step(x, layer):
      return layers.apply(Block(self), layer, x, rope, attend)

    hidden, kept = layers.scan_stack(
      step, embeds.astype(self.dtype)[:, None], params["layers"], self.remat
    )
    return hidden[:, 0], kept

  def _rope(self, positions):
    """Returns cosines and sines [P, 1, T, 1, H] of positions [P, T]."""
    tables = rotary(positions, self.head_width, self.rope_base)
    return tuple(table[:, None, :, None] for table in tables)

  def _norm(self, params, hidden):
    norm = layers.RMSNorm(self.norm_epsilon, self.dtype)
    return layers.apply(norm, params["norm"], hidden)


def _positions(mask):
  """Numbers the real tokens of left-padded rows [P, T] from 0."""
  return jnp.maximum(jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, 0)


def unstack(tree: PyTree, length: int) -> tuple[PyTree, ...]:
  """Splits the leading axis [L] of every array into a tuple of L trees."""
  return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(length))


def split_prefix(prefix: Prefix) -> Prefix:
  """Lays a prefix out for decoding; see `Prefix`.

  Inside a decode loop a slice of the stack, or a transposed product, would be a
  copy at every token.
  """
  return dataclasses.replace(
    prefix,
    keys=tuple(prefix.keys.swapaxes(-1, -2)),
    values=tuple(prefix.values),
  )
