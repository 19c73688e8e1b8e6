"""Emu3: one language model whose vocabulary holds words and image codes.

Same function as `Emu3ForConditionalGeneration` of transformers 5.24; prompts
may hold images also when one is generated. An image is, as tokens: a begin that
says its size, its rows of codes, each followed by an end of row, and an end.
Letters: P prompts, T prompt tokens, N images, G samples, I codes per image in h
rows of w, C codebook, D width, V vocabulary, E width of a codebook vector.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core import sharding
from genrec_jax.core.types import KVCache, Prefix, Prompt, PyTree, Title
from genrec_jax.models import emu3_tokens, llama, movqgan
from genrec_jax.models.api import Vocabulary
from genrec_jax.models.emu3_tokens import CodeIds, RowVocabulary
from genrec_jax.models.llama_generator import LlamaGenerator, Step, placed
from genrec_jax.models.llama_prefix import Guided
from genrec_jax.models.pixels import Preprocessing

# Of a vocabulary of 184,622 tokens no mesh takes even parts: table and head are
# split along the width alone.
_ENDS = {
  r"embed_tokens/embedding": PartitionSpec(None, ("data", "model")),
  r"lm_head/kernel": PartitionSpec(("data", "model"), None),
}
RULES = (
  *(
    (f"language/{pattern}", _ENDS.get(pattern, spec))
    for pattern, spec in llama.RULES
  ),
  *((f"tokenizer/{pattern}", spec) for pattern, spec in movqgan.RULES),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emu3(LlamaGenerator):
  """Static configuration and the functions of the generator; see `api`.

  Attributes:
    row_end_id: ends a row of codes.
    image_begin: tokens that begin an image of `image_size`.
    code_ids: the token of each code.
    silent_ids: of all others, those that texts do not hold.
    image_size: pixels per side of the images it generates.
    read_size: the same of the images it reads.
  """

  tokenizer: movqgan.MoVQGAN
  row_end_id: int
  image_begin: tuple[int, ...]
  code_ids: CodeIds
  silent_ids: tuple[int, ...]
  image_size: int = 256
  read_size: int = 128

  def __post_init__(self) -> None:
    """Checks that images are whole numbers of codes, each with a token.

    Raises:
      ValueError: sizes or tokens that the tokenizer does not have.
    """
    side = self.tokenizer.downsampling
    for name in ("image_size", "read_size"):
      size = getattr(self, name)
      if size < side or size % side:
        raise ValueError(
          f"{name} is {size}: expected a multiple of {side}, the pixels of a"
          " code"
        )
    if len(self.code_ids) != self.codebook_size:
      raise ValueError(
        f"{len(self.code_ids)} tokens of codes: expected one for each of the"
        f" {self.codebook_size} codes"
      )

  @property
  def image_tokens(self) -> int:
    """I: codes per generated image."""
    return self._side(self.image_size) ** 2

  @property
  def prompt_tokens(self) -> int:
    """Placeholders of an image that is read: codes and ends of rows."""
    side = self._side(self.read_size)
    return side * (side + 1)

  @property
  def image_vocabulary(self) -> Vocabulary:
    """Codes of images: rows of the one table, columns of the one head."""
    return RowVocabulary(
      self.codebook_size,
      self._embed_codes,
      self._code_logits,
      self._image_decode_params,
      lambda params: params["codes"]["end"],
    )

  @property
  def reader(self) -> str:
    """The VQ tokenizer."""
    return "tokenizer/.*"

  def without_gradient(self, *, words: bool = False) -> str:
    """The VQ tokenizer: the head is that of words and codes, and whole."""
    return "tokenizer/.*"

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    one, two = jax.random.split(key)
    return {
      "language": self.language.init(one),
      "tokenizer": self.tokenizer.init(two),
    }

  def unconditional(self, prompt: Prompt) -> Prompt:
    """Leaves BOS and the begin of an image; see `emu3_tokens.without_text`."""
    return emu3_tokens.without_text(
      prompt, self.image_begin, bos_id=self.bos_id, pad_id=self.pad_id
    )

  def read_images(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Returns the tokens [P, N, M] of uint8 images [P, N, h, w, 3].

    M: `prompt_tokens`. Images of another size than `read_size`, such as those
    that the model has generated, are resized.
    """
    size = self.read_size
    seen = Preprocessing(size, size, self.pixel_mean, self.pixel_std)

    def encode(one: jax.Array) -> jax.Array:
      pixels = seen(one.astype(jnp.float32) / 255)
      return self.tokenizer.encode(params["tokenizer"], pixels)

    # One image of every prompt at a time: a distance to each of the codes, of
    # each place of all images, would fill a device.
    codes = jax.lax.map(encode, images.swapaxes(0, 1))  # [N, P, h, w]
    codes = codes.reshape(*codes.shape[:2], -1)
    ids = emu3_tokens.ids_of(self.code_ids, codes.swapaxes(0, 1))
    return emu3_tokens.in_rows(ids, self._side(self.read_size), self.row_end_id)

  def embed(self, params: PyTree, prompt: Prompt) -> jax.Array:
    """Returns [P, T, D]: the k-th placeholder of a row takes its k-th token.

    A row holds at most N M placeholders; with fewer, its last images are not
    used.
    """
    ids = jnp.asarray(prompt.ids)
    if prompt.images.shape[1]:  # static: else the tokenizer is not compiled
      tokens = self._images_read(params, prompt.images)  # [P, N, M]
      tokens = tokens.reshape(tokens.shape[0], -1)
      slots = ids == self.image_id  # [P, T]
      ids = jnp.where(slots, placed(slots, tokens), ids)
    return self.language.embed(params["language"], ids)

  def decode_subtree(self, params: PyTree, *, words: bool = False) -> PyTree:
    """Returns the subtree that `decode_step` reads, in the compute type."""
    # Table and head whole: `Vocabulary.decode_params` takes parts of them.
    return self.cast_params(params)

  def init_cache(
    self, prefix: Prefix | Guided, num_samples: int, length: int
  ) -> KVCache:
    """Returns an empty cache for G answers of up to `length` tokens."""
    ends = self._side(self.image_size)  # of rows
    return super().init_cache(prefix, num_samples, length + ends)

  def cache_tokens(self, codes: int) -> int:
    """Returns the room that codes take in a cache, with ends of whole rows."""
    return codes + codes // self._side(self.image_size)

  def _append(
    self,
    vocabulary: Vocabulary,
    decode_params: PyTree,
    run: Step,
    cache: KVCache,
    tokens: jax.Array,
    index: jax.Array,
  ) -> tuple[jax.Array, KVCache]:
    """After the last code of a row comes its end, in the same step."""
    if not isinstance(vocabulary, RowVocabulary):
      return super()._append(
        vocabulary, decode_params, run, cache, tokens, index
      )
    embeds = vocabulary.embed(decode_params, tokens)  # [P, G, D]
    side = self._side(self.image_size)
    end = vocabulary.end(decode_params)
    end = jnp.broadcast_to(end[None, None], embeds.shape).astype(embeds.dtype)

    def append(number, carry):
      cache, _ = carry
      token = jnp.where(number == 0, embeds, end)
      # Ends of the rows before take a place each.
      hidden, cache = run(cache, token, index + index // side + number)
      return cache, hidden

    # A loop, not a branch: XLA writes its cache in place, and compiles the
    # layers once.
    count = 1 + ((index + 1) % side == 0).astype(jnp.int32)
    cache, hidden = jax.lax.fori_loop(0, count, append, (cache, embeds))
    return hidden, cache

  def teacher_forced_hidden(
    self,
    params: PyTree,
    embeds: jax.Array,
    mask: jax.Array,
    codes: jax.Array | None,
    title: Title | None = None,
  ) -> jax.Array:
    """Returns the states before the title's tokens and the codes [P, G, I].

    They follow prompts of embeddings [P, T, D] and mask [P, T]; see `api`.
    """
    side = self._side(self.image_size)
    image = None
    if codes is not None:
      ids = emu3_tokens.ids_of(self.code_ids, codes)
      image = emu3_tokens.in_rows(ids, side, self.row_end_id)
    tokens, real = emu3_tokens.answer(title, image, self.image_begin)
    # Nothing follows the last token, of an image the end of its last row.
    hidden = self.language.forward_shared_prefix(
      params["language"],
      embeds,
      mask,
      self._embed_words(params, tokens[:, :, :-1]),
      None if real is None else real[:, :, :-1],
    )  # the state before the answer, and those of its tokens
    if image is None:
      return hidden
    states = hidden[:, :, -image.shape[-1] :]  # before each of the image's
    # The state of a row's last code predicts its end.
    states = states.reshape(*states.shape[:2], side, side + 1, -1)[:, :, :, :-1]
    states = states.reshape(*states.shape[:2], side * side, -1)
    if title is None:
      return states
    return jnp.concatenate([hidden[:, :, : title.tokens.shape[-1]], states], 2)

  def _side(self, size: int) -> int:
    """Returns the codes along a side of `size` pixels."""
    return size // self.tokenizer.downsampling

  def _at_codes(self, values: jax.Array, axis: int) -> jax.Array:
    return emu3_tokens.at_codes(self.code_ids, values, axis)

  def _code_kernel(self, params: PyTree) -> jax.Array:
    """Returns the columns of the head that are of codes, [D, C]."""
    if "codes" in params:  # laid out for decoding
      return params["codes"]["kernel"]
    language = params["language"]
    if self.language.tied:
      kernel = self._at_codes(language["embed_tokens"]["embedding"], 0).T
    else:
      kernel = self._at_codes(language["lm_head"]["kernel"], 1)
    # Codes, other than the vocabulary, are split evenly: so are their logits.
    kernel = kernel.astype(self.language.dtype)
    return sharding.constrain(kernel, PartitionSpec(None, "model"))

  def _embed_codes(self, params: PyTree, codes: jax.Array) -> jax.Array:
    if "codes" in params:  # laid out for decoding
      return params["codes"]["embedding"][codes]
    return self._embed_words(params, emu3_tokens.ids_of(self.code_ids, codes))

  def _code_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    return llama.project(hidden, self._code_kernel(params), self.language.dtype)

  def _image_decode_params(self, params: PyTree) -> PyTree:
    """Returns what decoding of codes reads: of table and head theirs alone."""
    language = params["language"]
    table = language["embed_tokens"]["embedding"]
    codes = {
      "embedding": self._at_codes(table, 0),  # [C, D]
      "end": table[self.row_end_id],  # [D]
    }
    codes = jax.tree.map(lambda x: x.astype(self.language.dtype), codes)
    codes["kernel"] = self._code_kernel({"language": language})  # [D, C]
    return {"language": self.language.decode_params(language), "codes": codes}

  def _word_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    logits = super()._word_logits(params, hidden)  # [..., V]
    return emu3_tokens.silenced(logits, [*self.code_ids, *self.silent_ids])
