"""What generators of one Llama and one image tokenizer share.

A family adds what it reads images by, its vocabulary of codes, and what stands
around these. Letters: P prompts, T prompt tokens, M values, G samples, I codes
per image, C codebook, D width, E width of a codebook vector.
"""

import abc
from collections.abc import Callable
import dataclasses
import functools
import math
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from genrec_jax.core.types import KVCache, Prefix, PyTree
from genrec_jax.models import llama, llama_prefix
from genrec_jax.models.api import Vocabulary
from genrec_jax.models.image_tokenizer import ImageTokenizer
from genrec_jax.models.llama_prefix import Guided
from genrec_jax.nn import int8

# Runs a token at a place of a cache; returns states and the new cache.
Step = Callable[[KVCache, jax.Array, jax.Array], tuple[jax.Array, KVCache]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaGenerator(abc.ABC):
  """Static configuration and functions of any such generator; see `api`.

  Attributes:
    language: the language model.
    tokenizer: of images.
    bos_id: beginning of sequence.
    pad_id: padding.
    image_id: placeholder of a part of an image that is read.
    pixel_mean: of what the tokenizer reads, by channel.
    pixel_std: the same.
  """

  language: llama.Llama
  tokenizer: ImageTokenizer
  bos_id: int
  pad_id: int
  image_id: int
  pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
  pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

  # Parts of the parameters of which every use casts all to the compute type.
  cast: ClassVar[tuple[str, ...]] = ("language",)

  @property
  @abc.abstractmethod
  def image_tokens(self) -> int:
    """I: codes per generated image."""

  @property
  def codebook_size(self) -> int:
    """C: values a code can take."""
    return self.tokenizer.codebook_size

  @property
  def text_vocabulary(self) -> Vocabulary:
    """Tokens of texts: the language model's own table and head."""
    return Vocabulary(
      self.language.vocab_size,
      self._embed_words,
      self._word_logits,
      self._text_decode_params,
    )

  @property
  def begin_vocabulary(self) -> Vocabulary:
    """The begin of an image: reads words, and predicts the first code."""
    return Vocabulary(
      self.codebook_size,
      self._embed_words,
      self._code_logits,
      # The text's part has the layers, too, and what words are read by.
      lambda params: (
        self._image_decode_params(params) | self._text_decode_params(params)
      ),
    )

  @property
  def adaptable(self) -> str:
    """Kernels that may have LoRA adapters: all of the language layers'."""
    return f"language/{llama.ADAPTABLE}"

  def with_compute(self, *, dtype: str, remat: str = "none") -> Self:
    """Returns the same model with another compute type and remat policy.

    The image tokenizer stays in float32: it is small, and its codes are an
    argmin that rounding would flip.
    """
    language = dataclasses.replace(self.language, dtype=dtype, remat=remat)
    return dataclasses.replace(self, language=language)

  def _images_read(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Returns what `read_images` gives of images, or has given; see `api`."""
    if images.dtype == jnp.uint8:
      return self.read_images(params, images)
    return images

  def hidden_states(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Returns hidden states [P, T, D] of all tokens, for text training."""
    return self.language.hidden_states(params["language"], embeds, mask)

  def prefill(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> Prefix:
    """Runs the language model over [P, T, D] embeddings, mask [P, T]."""
    return self.language.prefill(params["language"], embeds, mask)

  def cast_params(self, params: PyTree) -> PyTree:
    """Returns what every use casts to the compute type, cast; see `api`.

    A model with these in place of its own computes the same.
    """
    # What is in eight bits stays so: loops ask for it once more.
    return int8.cast(
      {name: params[name] for name in self.cast if name in params},
      self.language.dtype,
    )

  def shares_unconditional(self, prompts: int, length: int) -> bool:
    """Whether unconditional prefixes are kept once; see `api`."""
    return llama_prefix.worth_sharing(prompts, length)

  def decode_prefix(
    self,
    prefix: Prefix,
    unconditional: Prefix | None = None,
    *,
    narrow: bool = False,
  ) -> Prefix | Guided:
    """Lays a prefix out for `decode_step`; see `api`."""
    return llama_prefix.laid_out(prefix, unconditional, narrow=narrow)

  def init_cache(
    self, prefix: Prefix | Guided, num_samples: int, length: int
  ) -> KVCache:
    """Returns an empty cache for G answers of up to `length` tokens."""
    return self.language.init_cache(prefix, num_samples, length)

  def cache_tokens(self, codes: int) -> int:
    """Returns the room that codes of an image take in a cache: one each."""
    return codes

  def decode_step(
    self,
    vocabulary: Vocabulary,
    decode_params: PyTree,
    prefix: Prefix | Guided,
    cache: KVCache,
    tokens: jax.Array,
    index: jax.Array,
    before: jax.Array | None = None,
    *,
    unread: int = 0,
  ) -> tuple[jax.Array, KVCache]:
    """Appends token number `index` [P, G] to each answer; see `api`."""
    run = functools.partial(
      self.language.decode_step,
      decode_params["language"],
      prefix,
      before=before,
      unread=unread,
    )
    hidden, cache = self._append(
      vocabulary, decode_params, run, cache, tokens, index
    )
    return vocabulary.logits(decode_params, hidden), cache

  def _append(
    self,
    vocabulary: Vocabulary,
    decode_params: PyTree,
    run: Step,
    cache: KVCache,
    tokens: jax.Array,
    index: jax.Array,
  ) -> tuple[jax.Array, KVCache]:
    """Appends a token by `run`, the language model's `decode_step`."""
    return run(cache, vocabulary.embed(decode_params, tokens), index)

  def encode_pixels(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Quantises float32 images [..., h, w, 3] in [0, 1] to codes [..., I]."""
    flat = pixels.reshape(-1, *pixels.shape[-3:])  # [B, h, w, 3]
    mean, std = self._normalisation()
    codes = self.tokenizer.encode(params["tokenizer"], (flat - mean) / std)
    return codes.reshape(*pixels.shape[:-3], -1)

  def decode_pixels(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Decodes codes [..., I] to float32 images [..., h, w, 3] in [0, 1]."""
    vectors = self.tokenizer.lookup(params["tokenizer"], codes)
    return self.decode_vectors(params, vectors)

  def code_vectors(self, params: PyTree) -> jax.Array:
    """Returns what the tokenizer's decoder reads of all codes, [C, E]."""
    codes = jnp.arange(self.codebook_size)
    return self.tokenizer.lookup(params["tokenizer"], codes)

  def decode_vectors(self, params: PyTree, vectors: jax.Array) -> jax.Array:
    """Decodes vectors [..., I, E] to images [..., h, w, 3]; see `api`."""
    side = math.isqrt(self.image_tokens)  # images are square
    grids = vectors.reshape(-1, side, side, vectors.shape[-1])
    pixels = self.tokenizer.decode_latents(params["tokenizer"], grids)
    mean, std = self._normalisation()
    pixels = jnp.clip(pixels * std + mean, 0, 1)
    return pixels.reshape(*vectors.shape[:-2], *pixels.shape[1:])

  def _normalisation(self) -> tuple[jax.Array, ...]:
    """Returns mean and deviation of pixels, [1, 1, 1, 3] both."""
    both = self.pixel_mean, self.pixel_std
    return tuple(jnp.asarray(x).reshape(1, 1, 1, 3) for x in both)

  @abc.abstractmethod
  def read_images(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Reads the images of prompts; see `api`."""

  @abc.abstractmethod
  def _code_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    """Returns logits [..., C] of the next code, of states [..., D]."""

  @abc.abstractmethod
  def _image_decode_params(self, params: PyTree) -> PyTree:
    """Lays out what decoding of codes reads."""

  def _embed_words(self, params: PyTree, ids: jax.Array) -> jax.Array:
    return self.language.embed(params["language"], ids)

  def _word_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    return self.language.logits(params["language"], hidden)

  def _text_decode_params(self, params: PyTree) -> PyTree:
    return {"language": self.language.text_decode_params(params["language"])}


def placed(slots: jax.Array, values: jax.Array) -> jax.Array:
  """Puts values of images where a prompt has their placeholders.

  Args:
    slots: [P, T] bool, the placeholders.
    values: [P, M, ...]; a row holds at most M placeholders, and with fewer its
      last values are not used.

  Returns:
    [P, T, ...]: at the k-th placeholder of a row its k-th value, elsewhere any.
  """
  # The number of a placeholder within its row, [P, T].
  order = jnp.maximum(jnp.cumsum(slots, -1, dtype=jnp.int32) - 1, 0)
  # Each of its numbers picks a whole value.
  order = order.reshape(*order.shape, *(1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, order, 1)
