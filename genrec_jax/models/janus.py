"""Janus-Pro: reads images with a SigLIP tower, generates them as VQGAN codes.

Same function as `JanusForConditionalGeneration` of transformers 5.23; prompts
may hold images also when one is generated, which transformers leaves out.
Letters: P prompts, T prompt tokens, N images, G samples, I codes per image,
C codebook, D width, F the tower's, E width of a codebook vector, W tokens of a
title.
"""

import dataclasses
import functools
from typing import ClassVar, Self

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core.types import Prompt, PyTree, Title
from genrec_jax.models import llama, siglip, vqgan
from genrec_jax.models.api import Vocabulary
from genrec_jax.models.janus_layers import Aligner, Head
from genrec_jax.models.llama_generator import LlamaGenerator, placed
from genrec_jax.nn import layers

RULES = (
  *((f"language/{pattern}", spec) for pattern, spec in llama.RULES),
  *((f"vision/{pattern}", spec) for pattern, spec in siglip.RULES),
  *((f"tokenizer/{pattern}", spec) for pattern, spec in vqgan.RULES),
  (r"(image_head/)?aligner/fc1/kernel", PartitionSpec(None, "model")),
  (r"(image_head/)?aligner/(fc1|hidden_layers/\d+)/bias", PartitionSpec()),
  (r"image_head/embed/embedding", PartitionSpec("data", None)),
  (  # One rule: an aligner of one layer has no hidden ones.
    r"((image_head/)?aligner/hidden_layers/\d+"
    r"|image_head/head/(proj_out|vision_head))/kernel",
    PartitionSpec("data", "model"),
  ),
  (r"image_head/head/(proj_out|vision_head)/bias", PartitionSpec()),
)


# What words are read and written by, of the language model.
_ENDS = {"embed_tokens", "lm_head"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Janus(LlamaGenerator):
  """Static configuration and the functions of the generator; see `api`."""

  tokenizer: vqgan.VQGAN
  vision: siglip.Siglip
  boi_id: int  # begin of image, the last token of a prompt
  aligner_depth: int = 2
  aligner_activation: str = "gelu"
  image_aligner_depth: int = 2
  image_activation: str = "gelu"  # of the codes' aligner and head

  # The tower is left out: its layer norms use their parameters in float32.
  cast: ClassVar = ("language", "aligner", "image_head")

  def __post_init__(self) -> None:
    """Checks that images are generated at the size at which they are read.

    Raises:
      ValueError: the two towers do not fit.
    """
    # A placeholder of an image read stands for a patch, and so does a code.
    generated = self.vision.image_size // self.vision.patch_size
    generated *= self.tokenizer.downsampling
    if generated != self.vision.image_size:
      raise ValueError(
        f"images are read at {self.vision.image_size} pixels and generated at"
        f" {generated}; expected patch_size ({self.vision.patch_size}) to equal"
        f" the tokenizer's downsampling ({self.tokenizer.downsampling})"
      )

  @property
  def image_tokens(self) -> int:
    """I: codes per image."""
    return self.vision.num_patches

  @property
  def prompt_tokens(self) -> int:
    """Placeholders per image in a prompt: one for each patch."""
    return self.vision.num_patches

  @property
  def image_size(self) -> int:
    """Pixels per side of the images it generates, as of those it reads."""
    return self.vision.image_size

  @property
  def read_size(self) -> int:
    """Pixels per side of the images in its prompts."""
    return self.vision.image_size

  @property
  def image_begin(self) -> tuple[int, ...]:
    """The token that begins an image."""
    return (self.boi_id,)

  @property
  def image_vocabulary(self) -> Vocabulary:
    """Codes of images: a table, an aligner and a head of their own."""
    return Vocabulary(
      self.codebook_size,
      self._embed_codes,
      self._code_logits,
      self._image_decode_params,
    )

  @property
  def reader(self) -> str:
    """The SigLIP tower; the aligner behind it is most often trained."""
    return "vision/.*"

  def without_gradient(self, *, words: bool = False) -> str:
    """The VQ tokenizer, and text's head where answers are images alone."""
    return "tokenizer/.*" if words else "(language/lm_head|tokenizer)/.*"

  def with_compute(self, *, dtype: str, remat: str = "none") -> Self:
    """Returns the same model, its tower too with another compute type."""
    model = super().with_compute(dtype=dtype, remat=remat)
    vision = dataclasses.replace(self.vision, dtype=dtype, remat=remat)
    return dataclasses.replace(model, vision=vision)

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""
    keys = jax.random.split(key, 7)
    width = self.language.width
    code = jnp.zeros((1, self.tokenizer.embed_dim))
    table = nn.initializers.normal(1.0)(
      keys[4], (self.codebook_size, self.tokenizer.embed_dim)
    )  # [C, E]
    # Inputs of the modules below: only their widths count.
    feature, hidden = jnp.zeros((1, self.vision.width)), jnp.zeros((1, width))
    return {
      "language": self.language.init(keys[0]),
      "vision": self.vision.init(keys[1]),
      "aligner": self._aligner().init(keys[2], feature)["params"],
      "image_head": {
        "embed": {"embedding": table},
        "aligner": self._image_aligner().init(keys[5], code)["params"],
        "head": self._head().init(keys[6], hidden)["params"],
      },
      "tokenizer": self.tokenizer.init(keys[3]),
    }

  def unconditional(self, prompt: Prompt) -> Prompt:
    """Pads every token but BOS and a begin-of-image at the end; no images.

    Same length and mask, as in DeepSeek's generation_inference.py
    (deepseek-ai/Janus at 1daa72f: `tokens[i, 1:-1] = pad_id`), whose prompts
    hold no image. Begin-of-image tokens of history images are padded like all
    else: kept, they would tell how many items the user has.
    """
    last = jnp.arange(prompt.ids.shape[1]) == prompt.ids.shape[1] - 1  # [T]
    begins = (prompt.ids == self.boi_id) & last[None]  # [P, T]
    keep = (prompt.ids == self.bos_id) | begins
    return dataclasses.replace(
      prompt,
      ids=jnp.where(keep, prompt.ids, self.pad_id),
      images=prompt.images[:, :0],
    )

  def read_images(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Reads uint8 images [..., h, w, 3]: the tower's [..., I, F]; see `api`."""
    shape = images.shape[:-3]
    pixels = images.reshape(-1, *images.shape[-3:]).astype(jnp.float32)
    features = self.vision.features(params["vision"], pixels / 127.5 - 1)
    return features.reshape(*shape, *features.shape[1:])

  def image_features(self, params: PyTree, images: jax.Array) -> jax.Array:
    """Aligns uint8 images, or what `read_images` gives: [..., I, D]."""
    features = self._images_read(params, images)  # [..., I, F]
    return layers.apply(self._aligner(), params["aligner"], features)

  def embed(self, params: PyTree, prompt: Prompt) -> jax.Array:
    """Returns [P, T, D]: the k-th placeholder of a row takes its k-th feature.

    A row holds at most N I placeholders; with fewer, its last images are not
    used.
    """
    embeds = self.language.embed(params["language"], prompt.ids)  # [P, T, D]
    if prompt.images.shape[1] == 0:  # static: the tower is not compiled at all
      return embeds
    features = self.image_features(params, prompt.images)  # [P, N, I, D]
    features = features.reshape(features.shape[0], -1, features.shape[-1])
    slots = prompt.ids == self.image_id  # [P, T]
    return jnp.where(slots[..., None], placed(slots, features), embeds)

  def decode_subtree(self, params: PyTree, *, words: bool = False) -> PyTree:
    """Returns the subtree that `decode_step` reads, in the compute type."""
    # Codes have a table and a head of their own: the text's may stay behind.
    names = {"layers", "norm"} | (_ENDS if words else set())
    language = {k: v for k, v in params["language"].items() if k in names}
    return self.cast_params(
      {"language": language, "image_head": params["image_head"]}
    )

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
    run = functools.partial(
      self.language.forward_shared_prefix, params["language"], embeds, mask
    )
    # Token i is predicted at the one before it, token 0 at the prompt's last.
    if title is None:
      assert codes is not None
      return run(self._embed_codes(params, codes[:, :, :-1]))
    words = self._embed_words(params, title.tokens)  # [P, G, W, D]
    if codes is None:
      return run(words[:, :, :-1], title.words[:, :, :-1])
    begin = jnp.full((*codes.shape[:2], 1), self.boi_id)
    answers = [
      words,
      self._embed_words(params, begin),
      self._embed_codes(params, codes[:, :, :-1]),
    ]
    length = codes.shape[-1]
    real = jnp.pad(
      title.words, [(0, 0), (0, 0), (0, length)], constant_values=True
    )
    hidden = run(jnp.concatenate(answers, 2), real)  # [P, G, W + 1 + I, D]
    written = title.tokens.shape[-1]
    # The state before the begin of the image is of the title, not scored.
    return jnp.concatenate(
      [hidden[:, :, :written], hidden[:, :, written + 1 :]], 2
    )

  def _embed_codes(self, params: PyTree, codes: jax.Array) -> jax.Array:
    head = params["image_head"]
    vectors = head["embed"]["embedding"][codes]  # [..., E]
    vectors = vectors.astype(self.language.dtype)
    return layers.apply(self._image_aligner(), head["aligner"], vectors)

  def _code_logits(self, params: PyTree, hidden: jax.Array) -> jax.Array:
    return layers.apply(self._head(), params["image_head"]["head"], hidden)

  def _image_decode_params(self, params: PyTree) -> PyTree:
    params = self.decode_subtree(params)
    language = self.language.decode_params(params["language"])
    return params | {"language": language}

  def _aligner(self) -> Aligner:
    return Aligner(
      self.language.width,
      self.aligner_depth,
      self.aligner_activation,
      self.language.dtype,
    )

  def _image_aligner(self) -> Aligner:
    return Aligner(
      self.language.width,
      self.image_aligner_depth,
      self.image_activation,
      self.language.dtype,
    )

  def _head(self) -> Head:
    return Head(
      self.language.width,
      self.codebook_size,
      self.image_activation,
      self.language.dtype,
    )
