"""Models, batches, tokenizers and a processor small enough for tests.

What compiles in seconds and still has every part of a real model: groups of
query heads, heads that are no share of the width, sharded axes that 8 devices
divide.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps
import tokenizers
import transformers

from genrec_jax.core import sharding
from genrec_jax.core.types import Batch, Prompt, PyTree, Title
from genrec_jax.data import world
from genrec_jax.models import emu3, janus, llama, movqgan, siglip, vqgan
from genrec_jax.models.clip import Clip, Tower
from genrec_jax.models.emu3 import Emu3
from genrec_jax.models.janus import Janus
from genrec_jax.sampling import Titles

# Janus's special tokens, which are the first of every vocabulary here.
SPECIAL_TOKENS = {
  "bos_token": "<｜begin▁of▁sentence｜>",
  "eos_token": "<｜end▁of▁sentence｜>",
  "pad_token": "<｜▁pad▁｜>",
  "image_token": "<image_placeholder>",
  "boi_token": "<begin_of_image>",
  "eoi_token": "<end_of_image>",
}
BOS, EOS, PAD, IMAGE, BOI, EOI = range(len(SPECIAL_TOKENS))
IMAGE_TOKENS = 4  # of `tiny_janus` and `TinyProcessor`
VOCABULARY = 303  # of `janus_tokenizer`
INSTRUCTION = "what comes next"


_LANGUAGE: dict[str, Any] = {
  "width": 24,
  "mlp_width": 40,
  "num_layers": 2,
  "num_heads": 6,
  "num_kv_heads": 2,
  "head_width": 10,
}
_WORDS = 24  # tokens of texts, special ones included


def tiny_janus(image_size: int = 16, **language: Any) -> Janus:
  """Returns a Janus that reads and generates images of four codes.

  Args:
    image_size: pixels, a power of 2.
    **language: what to change of the `Llama`.
  """
  sizes = {"vocab_size": _WORDS} | _LANGUAGE
  # Each level but the first halves the side, down to 2 x 2 codes.
  levels = (image_size // 2).bit_length()
  return Janus(
    language=llama.Llama(**(sizes | language)),
    vision=siglip.Siglip(
      width=16,
      mlp_width=24,
      num_layers=1,
      num_heads=2,
      image_size=image_size,
      patch_size=image_size // 2,
    ),
    tokenizer=vqgan.VQGAN(
      embed_dim=4,
      num_embeddings=16,
      latent_channels=32,
      base_channels=32,  # its group norms have 32 groups
      channel_multiplier=(1,) * levels,
      num_res_blocks=1,
    ),
    bos_id=BOS,
    pad_id=PAD,
    boi_id=BOI,
    image_id=IMAGE,
  )


def tiny_emu3(**language: Any) -> Emu3:
  """Returns an Emu3 that generates images of four codes and reads them as one.

  Args:
    **language: what to change of the `Llama`.
  """
  codes = range(_WORDS, _WORDS + 16)
  row_end, wrapper, frame_end = range(codes.stop, codes.stop + 3)
  sizes = {"vocab_size": frame_end + 1, "rope_base": 1e6} | _LANGUAGE
  return Emu3(
    language=llama.Llama(**(sizes | language)),
    tokenizer=movqgan.MoVQGAN(
      codebook_size=len(codes),
      # Its group norms have 32 groups of two: of one number, which an image of
      # one code has, a norm is 0 whatever is in the image.
      base_channels=64,
      channel_multiplier=(1, 1, 1, 1),
      num_res_blocks=1,
    ),
    bos_id=BOS,
    pad_id=PAD,
    image_id=IMAGE,
    row_end_id=row_end,
    image_begin=(BOI, 9, wrapper),
    code_ids=codes,
    silent_ids=(BOS, PAD, IMAGE, EOI, row_end, wrapper, frame_end),
    image_size=16,
    read_size=8,
  )


@dataclasses.dataclass(frozen=True)
class TinyFamily:
  """A family's tiny model, and what a run of it trains.

  Attributes:
    model: the generator; images have 16 pixels a side, four codes of 16.
    rules: of its parameters' layout.
    trainable: what RL trains, patterns.
    tuned: what SFT trains.
  """

  model: Janus | Emu3
  rules: sharding.Rules
  trainable: tuple[str, ...]
  tuned: tuple[str, ...]


# What holds for every model is tested for each of these.
FAMILIES = {
  "janus": TinyFamily(
    tiny_janus(),
    janus.RULES,
    ("^language/", "^image_head/"),
    ("^language/", "^image_head/", "^aligner/"),
  ),
  "emu3": TinyFamily(tiny_emu3(), emu3.RULES, ("^language/",), ("^language/",)),
}


def tiny_clip(image_size: int = 16, **changes: Any) -> Clip:
  """Returns a CLIP.

  Args:
    image_size: pixels, divisible by 2.
    **changes: of the `Clip`.
  """
  sizes: dict[str, Any] = {
    "projection_dim": 8,
    "vocab_size": 12,
    "max_position_embeddings": 6,
    "eos_token_id": 1,
  }
  return Clip(
    vision=Tower(16, 24, 1, 2),
    text=Tower(16, 24, 1, 2),
    image_size=image_size,
    patch_size=image_size // 2,
    **(sizes | changes),
  )


def random_params(
  model: Janus | Emu3 | Clip, seed: int, scale: float
) -> PyTree:
  """Returns normal parameters; `model.init` would compile."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0, scale, leaf.shape).astype(leaf.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


def amplified(params: PyTree, factor: float) -> PyTree:
  """Scales random parameters up, so that no logit is close to uniform."""
  return jax.tree.map(lambda x: factor * x, params)


def tiny_params(model: Janus | Emu3) -> PyTree:
  """Returns random parameters by which logits and images' codes differ."""
  params = amplified(model.init(jax.random.key(0)), 1.25)
  if not isinstance(model, Emu3):
    return params
  # As large as Janus's tables and heads of codes: with the .02 of `init` all
  # codes are as likely, and a gradient is hardly more than rounding.
  language, scale = params["language"], 0.25 / 0.02
  for name in ("embed_tokens", "lm_head"):
    language[name] = amplified(language[name], scale)
  # Latents of images that are read as far apart as the codebook's vectors, or
  # all images would be one code.
  shape = (64, model.read_size, model.read_size, 3)
  pixels = jax.random.normal(jax.random.key(1), shape)
  latents = np.asarray(model.tokenizer.latents(params["tokenizer"], pixels))
  flat = latents.reshape(-1, latents.shape[-1])  # [M, E]
  mean, deviation = flat.mean(0), flat.std(0)  # [E] both
  last = params["tokenizer"]["quant_conv"]
  params["tokenizer"]["quant_conv"] = {
    "kernel": np.asarray(last["kernel"]) / deviation,
    "bias": (last["bias"] - mean) / deviation,
  }
  return params


# Of random models: with one end in four tokens titles have all lengths.
TITLES = Titles(max_tokens=5, end_ids=(BOI, 10, 11, 12, 13, 14))
# What an answer may be -> how its titles are written.
ANSWERS = {"image": None, "title_image": TITLES}


def image_ids(model: Janus | Emu3) -> list[int]:
  """Returns the tokens of an image in a prompt of a tiny model."""
  return [*model.image_begin, *[IMAGE] * model.prompt_tokens, EOI]


def random_batch(
  prompts: int,
  seed: int = 0,
  titles: Titles | None = None,
  model: Janus | Emu3 | None = None,
) -> Batch:
  """Returns windows of two history and two future items of random pixels.

  Fits a tiny model and `tiny_clip` of 16 pixels.

  Args:
    prompts: P.
    seed: of all that is random.
    titles: that answers begin with; None: they are images alone.
    model: that they are for; None: `tiny_janus`.
  """
  model = model or tiny_janus()
  rng = np.random.default_rng(seed)
  image, begin = image_ids(model), model.image_begin
  row = [BOS, 7, *image, 8, *image, 9, *begin]
  ids = np.tile(np.asarray(row, np.int32), (prompts, 1))  # [P, T]
  size = len(image)
  words = (1, size + 1, size + 2, 2 * size + 2)
  # None that is special.
  ids[:, words] = rng.integers(6, _WORDS, (prompts, len(words)))
  title = rng.integers(2, 12, (prompts, 5)).astype(np.int32)  # [P, W]
  title[:, -1] = 1  # `tiny_clip`'s end token, whose place is the embedding's

  def pixels() -> np.ndarray:
    return rng.integers(0, 256, (prompts, 2, 16, 16, 3), np.uint8)

  history = pixels()  # [P, 2, h, w, 3], square already: padded as cropped
  seen = history
  if model.read_size != model.image_size:
    side = model.read_size
    seen = rng.integers(0, 256, (prompts, 2, side, side, 3), np.uint8)
  future = pixels()
  answer = None
  if titles is not None:
    ids = ids[:, : -len(begin)]  # the answer begins the image
    answer = random_titles(rng, prompts, titles)
  return Batch(
    prompt=Prompt(ids=ids, mask=np.ones(ids.shape, bool), images=seen),
    history=history,
    history_mask=np.ones((prompts, 2), bool),
    future=future,
    future_mask=np.ones((prompts, 2), bool),
    title_ids=title,
    title_mask=np.ones(title.shape, bool),
    title=answer,
  )


def random_titles(
  rng: np.random.Generator, prompts: int, titles: Titles
) -> Title:
  """Returns a title of each prompt, [P, 1, W], of all lengths by turns."""
  most = titles.max_tokens
  lengths = np.arange(prompts)[:, None, None] % (most + 1)  # [P, 1, 1]
  places = np.arange(most)[None, None]  # [1, 1, W]
  words = rng.integers(15, 24, (prompts, 1, most))  # none that ends a title
  tokens = np.where(places < lengths, words, 0)
  tokens = np.where(places == lengths, titles.end_ids[0], tokens)
  return Title(tokens=tokens.astype(np.int32), words=places < lengths)


def word_tokenizer(
  max_length: int = 10_000,
) -> transformers.PreTrainedTokenizerFast:
  """Returns a tokenizer of the words of the synthetic world's titles."""
  words = [*SPECIAL_TOKENS.values(), "<n>", "<unk>", "on"]
  words += [word for words in world.ATTRIBUTES.values() for word in words]
  words += INSTRUCTION.split()
  vocabulary = {word: i for i, word in enumerate(words)}
  model = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
  )
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    pad_token=SPECIAL_TOKENS["pad_token"],
    unk_token="<unk>",
    model_max_length=max_length,
  )


class TinyProcessor:
  """The part of hf.processor.Processor that examples need, for 32 pixels."""

  pad_id, image_size, read_size = PAD, 32, 32
  num_image_tokens, prompt_tokens = IMAGE_TOKENS, IMAGE_TOKENS + 2
  max_positions, answers = 1000, False
  image_begin, end_ids = (BOI,), (EOS,)

  def __init__(self) -> None:
    self.tokenizer = word_tokenizer()
    self._newline = self.tokenizer.get_vocab()["<n>"]

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> list[int]:
    """Returns a prompt: title and image of each item, and the instruction."""
    ids = [BOS]
    for title in titles:
      ids += self.tokenizer(title)["input_ids"]
      ids += [BOI, *[IMAGE] * IMAGE_TOKENS, EOI, self._newline]
    return [*ids, *self.tokenizer(instruction)["input_ids"], BOI]

  def question_ids(self, titles: Sequence[str], question: str) -> list[int]:
    """Returns the prompt of an answer in words about an image."""
    return self.prompt_ids(titles, question)[:-1]

  def title_ids(self, title: str) -> list[int]:
    """Returns the words of a title."""
    return self.tokenizer(title)["input_ids"]

  def pixels(self, image: Image.Image) -> np.ndarray:
    """Returns an image as the vision tower reads it: padded to a square."""
    assert image.mode == "RGB"
    return np.asarray(ImageOps.pad(image, (32, 32), color=(127, 127, 127)))

  def crop(self, image: Image.Image) -> np.ndarray:
    """Returns an image as CLIP and the VQ encoder read it: its centre."""
    return np.asarray(ImageOps.fit(image, (32, 32)))


def janus_tokenizer() -> transformers.PreTrainedTokenizerFast:
  """Returns a byte-level tokenizer with Janus's special tokens."""
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=VOCABULARY,
    special_tokens=list(SPECIAL_TOKENS.values()),
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = ["large red striped circle on sand", "draw the next item: a cross"]
  model.train_from_iterator(texts * 20, trainer)
  bos = SPECIAL_TOKENS["bos_token"]
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{bos} $A", special_tokens=[(bos, BOS)]
  )
  # The rest are not among a tokenizer's own attributes.
  named = ("bos_token", "eos_token", "pad_token")
  extra = {k: v for k, v in SPECIAL_TOKENS.items() if k not in named}
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    padding_side="left",
    extra_special_tokens=extra,
    **{name: SPECIAL_TOKENS[name] for name in named},
  )
