"""Generator: what sampling, rewards and training ask of any model family.

A family (Janus, Emu3; Chameleon could follow) is a frozen, hashable dataclass
of static configuration whose methods take the parameters. Letters:
P prompts, T prompt tokens, G samples per prompt, I codes per image, C codebook,
D width, V vocabulary, L layers, W tokens of a title, H of an image's begin.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

import jax

from genrec_jax.core.types import KVCache, Prefix, Prompt, PyTree, Title


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Tokens of one kind that answers are made of: image codes, or words.

  Sampling takes one of a generator's two, and is else the same for both.

  Attributes:
    size: C or V.
    embed: maps parameters and tokens [...] to inputs [..., D].
    logits: maps parameters and states [..., D] to logits [..., C] or [..., V]
      of the next token, float32.
    decode_params: lays parameters out for `Generator.decode_step`, once per
      rollout.
  """

  size: int
  embed: Callable[[PyTree, jax.Array], jax.Array]  # [...] -> [..., D]
  logits: Callable[[PyTree, jax.Array], jax.Array]  # [..., D] -> [..., C]
  decode_params: Callable[[PyTree], PyTree]


class Generator(Protocol):
  """An any-to-any model that generates an image code by code."""

  # Sizes, which shapes depend on.

  @property
  def image_tokens(self) -> int:
    """I: codes per image."""

  @property
  def codebook_size(self) -> int:
    """C: values a code can take."""

  @property
  def image_size(self) -> int:
    """Pixels per side of the images it generates."""

  @property
  def read_size(self) -> int:
    """Pixels per side of the images in its prompts."""

  @property
  def prompt_tokens(self) -> int:
    """Placeholders per image in a prompt."""

  @property
  def image_begin(self) -> tuple[int, ...]:
    """H tokens of the text vocabulary that begin an image.

    The last of a prompt, or, of an answer that has a title, those after it.
    """

  @property
  def image_vocabulary(self) -> Vocabulary:
    """Codes of images, C of them."""

  @property
  def text_vocabulary(self) -> Vocabulary:
    """Tokens of texts, V of them."""

  @property
  def begin_vocabulary(self) -> Vocabulary:
    """The begin of an image: reads words, and predicts codes."""

  # What training does with which parameters.

  @property
  def adaptable(self) -> str:
    """Regular expression of the kernels that may have adapters; `nn.lora`."""

  def without_gradient(self, *, words: bool = False) -> str:
    """Returns a regular expression of whole paths that no answer depends on.

    Args:
      words: whether answers have words; else only codes' logits count.
    """

  @property
  def reader(self) -> str:
    """Regular expression of the whole paths of what `read_images` reads by."""

  def with_compute(self, *, dtype: str, remat: str = "none") -> "Generator":
    """Returns the same model with another compute type and remat policy."""

  # Prompts.

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters, a nested dict."""

  def unconditional(self, prompt: Prompt) -> Prompt:
    """Returns the prompt of the guidance's second branch; N = 0 images.

    As long, its mask may be another. It ends as the prompt does: with the begin
    of an image, or, where a title comes first, without. It tells nothing of the
    prompt but its length: without the last token, each is the beginning of any
    that is longer.
    """

  def read_images(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Reads the images of prompts, as `embed` does.

    Args:
      params: of the model; only what `reader` names is looked at.
      images: [P, N, h, w, 3] uint8.

    Returns:
      [P, N, ...], not uint8: `embed` takes it in the place of the images, so
      that a step whose `reader` is frozen reads them once.
    """

  def embed(self, params: PyTree, prompt: Prompt) -> jax.Array:
    """Returns the prompt's embeddings, images inserted: [P, T, D]."""

  def prefill(
    self, params: PyTree, embeds: jax.Array, mask: jax.Array
  ) -> Prefix:
    """Runs the language model over [P, T, D] embeddings, mask [P, T]."""

  # Sampling: once per rollout, then once per token.

  def decode_subtree(self, params: PyTree, *, words: bool = False) -> PyTree:
    """Returns what `decode_step` of images reads, in the compute type.

    Args:
      params: of the model.
      words: whether that of words is returned as well.
    """

  def cast_params(self, params: PyTree) -> PyTree:
    """Returns what every use casts to the compute type, cast.

    Of any part of the parameters; the rest is left out.
    """

  def shares_unconditional(self, prompts: int, length: int) -> bool:
    """Returns whether `decode_prefix` keeps guidance's second branch once.

    Then it is prefilled apart from the first, and not as rows between.

    Args:
      prompts: P.
      length: T.
    """

  def decode_prefix(
    self,
    prefix: Prefix,
    unconditional: Prefix | None = None,
    *,
    narrow: bool = False,
  ) -> Any:
    """Lays a prefix out for `decode_step`; call once per rollout.

    Args:
      prefix: of all rows, or, with the other, of P prompts.
      unconditional: of the unconditional prompts to them, of which only what
        they have in common is kept.
      narrow: keep keys and values in eight bits, of answers as well.

    Returns:
      What `decode_step` and `init_cache` take; `hidden` is that of all rows,
      the branches interleaved.
    """

  def init_cache(self, prefix: Any, num_samples: int, length: int) -> KVCache:
    """Returns an empty cache for G answers of up to `length` tokens.

    It has room for all that stands between codes of an image, too.
    """

  def cache_tokens(self, codes: int) -> int:
    """Returns the room that the first so many codes of an image take in it."""

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
    """Appends token number `index` to each answer.

    Args:
      vocabulary: of this generator; that of the tokens.
      decode_params: of `vocabulary.decode_params`.
      prefix: of `decode_prefix`.
      cache: with what `before` is of and `index` tokens in it.
      tokens: [P, G] int32.
      index: [] int32.
      before: [P, G, B] bool, of what an answer's cache holds before the tokens
        that `index` counts, True = attended to; None: B = 0.
      unread: tokens at the end of the cache which are empty still, and not
        looked at.

    Returns:
      The next logits [P, G, C] or [P, G, V], and the new cache.
    """

  # Scoring: all tokens at once.

  def teacher_forced_hidden(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    codes: jax.Array | None,
    title: Title | None = None,
  ) -> jax.Array:
    """Runs prompts and given answers in one pass.

    Args:
      params: of the model.
      embeds: of the prompts, [P, T, D].
      mask: [P, T] bool, True = a real token.
      codes: [P, G, I] int32; None: answers are titles alone.
      title: of W tokens, which comes first; None: answers are images alone.

    Returns:
      The states before each token of the title and each code,
      [P, G, W + I, D].
    """

  # Images and their codes.

  def encode_pixels(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Quantises float32 images [..., h, w, 3] in [0, 1] to codes [..., I]."""

  def decode_pixels(self, params: PyTree, codes: jax.Array) -> jax.Array:
    """Decodes codes [..., I] to float32 images [..., h, w, 3] in [0, 1]."""

  def code_vectors(self, params: PyTree) -> jax.Array:
    """Returns what the image decoder reads for each code: [C, E] float32."""

  def decode_vectors(self, params: PyTree, vectors: jax.Array) -> jax.Array:
    """Decodes vectors [..., I, E] as `decode_pixels` does codes.

    Differentiable, and the same images where they are those of the codes.
    """
