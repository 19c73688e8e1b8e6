"""What sampling, rewards and training ask of a generator, whatever its family.

A family (Janus here; Emu3 or Chameleon could follow) is a frozen, hashable
dataclass of static configuration whose methods take the parameters. Letters:
P prompts, T prompt tokens, G samples per prompt, I codes per image, C codebook,
D width, V vocabulary, L layers.
"""

from typing import Protocol

import jax

from genrec_jax.core.types import KVCache, Prefix, Prompt, PyTree


class Generator(Protocol):
  """An any-to-any model that draws an image code by code."""

  @property
  def image_tokens(self) -> int:
    """I: codes per image."""

  @property
  def codebook_size(self) -> int:
    """C: values a code can take."""

  @property
  def image_size(self) -> int:
    """Pixels per side of the images it reads and draws."""

  @property
  def adaptable(self) -> str:
    """Regular expression of the kernels that may have adapters; `nn.lora`."""

  @property
  def without_gradient(self) -> str:
    """Regular expression of whole paths that no code's logits depend on."""

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters, a nested dict."""

  def unconditional(self, prompt: Prompt) -> Prompt:
    """Returns the prompt of the guidance's second branch; N = 0 images."""

  def embed(self, params: PyTree, prompt: Prompt) -> jax.Array:
    """Returns the prompt's embeddings, images inserted: [P, T, D]."""

  def prefill(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> Prefix:
    """Runs the language model over [P, T, D] embeddings, mask [P, T]."""

  def decode_subtree(self, params: PyTree) -> PyTree:
    """Returns the subtree that `decode_step` reads, in the compute type."""

  def cast_params(self, params: PyTree) -> PyTree:
    """Returns what every use casts to the compute type, cast.

    Of any part of the parameters; the rest is left out.
    """

  def decode_params(self, params: PyTree) -> PyTree:
    """Lays parameters out for `decode_step`; call once per rollout."""

  def decode_prefix(self, prefix: Prefix) -> Prefix:
    """Lays a prefix out for `decode_step`; call once per rollout."""

  def init_cache(self, prefix: Prefix, num_samples: int) -> KVCache:
    """Returns an empty cache for G answers of I codes to each prompt."""

  def decode_step(
    self,
    decode_params: PyTree,
    prefix: Prefix,
    cache: KVCache,
    codes: jax.Array,
    index: jax.Array,
  ) -> tuple[jax.Array, KVCache]:
    """Appends code number `index` [P, G]; returns the next logits [P, G, C]."""

  def teacher_forced_hidden(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    codes: jax.Array,
  ) -> jax.Array:
    """Teacher-forced states before each of codes [P, G, I]: [P, G, I, D].

    They follow prompts of embeddings [P, T, D] and mask [P, T].
    """

  def logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """Returns a code's logits [..., C] float32 of the state before it."""

  def code_logits(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    codes: jax.Array,
  ) -> jax.Array:
    """Returns `logits` of `teacher_forced_hidden`: [P, G, I, C] float32."""

  def text_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """Returns a token's logits [..., V] float32 of the state before it."""

  def text_decode_params(self, params: PyTree) -> PyTree:
    """Lays parameters out for `decode_text_step`; call once per answer."""

  def init_text_cache(
    self, prefix: Prefix, num_samples: int, length: int
  ) -> KVCache:
    """Returns an empty cache for G answers of up to `length` tokens."""

  def decode_text_step(
    self,
    decode_params: PyTree,
    prefix: Prefix,
    cache: KVCache,
    ids: jax.Array,
    index: jax.Array,
  ) -> tuple[jax.Array, KVCache]:
    """Appends token number `index` [P, G]; returns next logits [P, G, V]."""

  def encode_pixels(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Quantises float32 images [..., h, w, 3] in [0, 1] to codes [..., I]."""

  def decode_pixels(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Draws codes [..., I] as float32 images [..., h, w, 3] in [0, 1]."""
