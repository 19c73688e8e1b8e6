"""Processor of Emu3, as `Emu3Processor` of transformers; needs no torch.

Sizes are of our own choice: transformers' image processor enlarges images to
262,144 pixels at least, which are 4,160 tokens each.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import chat, emu3_vocabulary, special_tokens
from genrec_jax.hf import settings as settings_files
from genrec_jax.hf.processor import centre_square
from genrec_jax.hf.tokenizers import plain, read_tokenizer

# Attributes of tokenizers that `Emu3Processor` reads, and Emu3's own tokens.
_TOKENS = {
  "boi_id": ("boi_token", "<|image start|>"),
  "eoi_id": ("eoi_token", "<|image end|>"),
  "wrapper_id": ("image_wrapper_token", "<|image token|>"),
  "frame_end_id": ("eof_token", "<|extra_201|>"),
  "image_id": ("image_token", "<image>"),
}
_SYSTEM = "You are a helpful assistant."  # what Emu3-Chat was trained with
# Where neither a flag nor the checkpoint has sizes: five images of a history
# and the target are 2,400 tokens of a context of 9,216.
SIZES = {"image_size": 256, "read_size": 128}
# Fields of `Emu3ImageProcessor`, transformers 5.24.
_IMAGES: Mapping[str, Any] = {
  "do_rescale": True,
  "do_normalize": True,
  "rescale_factor": 1 / 255,
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclasses.dataclass(frozen=True)
class Emu3Processor:
  """Processor of Emu3: titles to prompts, images to pixels."""

  tokenizer: transformers.PreTrainedTokenizerBase
  bos_id: int
  pad_id: int
  boi_id: int  # begin of image, its first token
  eoi_id: int  # end of image
  wrapper_id: int  # after an image's size
  frame_end_id: int  # after its last row
  image_id: int  # placeholder of one token of an image
  end_ids: tuple[int, ...]  # tokens that end an answer in words
  max_positions: int  # tokens that prompt and answer may have together
  image_size: int  # pixels per side of generated images
  read_size: int  # the same of images in a prompt
  downsampling: int  # pixels per code, along each side
  pixel_mean: tuple[float, float, float]
  pixel_std: tuple[float, float, float]
  chat_template: str | None  # Jinja; None: the model does not answer questions

  @classmethod
  def from_pretrained(
    cls, folder: Path, config: Mapping[str, Any]
  ) -> "Emu3Processor":
    """Reads the settings of an HF-format folder; no network.

    Args:
      folder: in HF format.
      config: its config.json, maybe with other sizes.

    Raises:
      UserError: files are missing, or settings are not those of Emu3; lists
        all that is wrong.
    """
    generation = settings_files.read_optional(folder / "generation_config.json")
    tokenizer = read_tokenizer(folder)
    given = settings_files.image_settings(folder)
    settings = {**_IMAGES, **{k: v for k, v in given.items() if v is not None}}
    ids, problems = special_tokens.common_ids(tokenizer, config, generation)
    vocabulary = emu3_vocabulary.of_config(config)
    named, more = special_tokens.named_ids(
      tokenizer,
      _TOKENS,
      {"image_id": vocabulary.get(emu3_vocabulary.IMAGE)},
      "an Emu3 checkpoint",
    )
    problems += more
    if not given:
      problems.append(
        "neither preprocessor_config.json nor an image processor in"
        " processor_config.json; take that of the same Emu3 checkpoint"
      )
    problems += [
      f"image processor: {name} is {settings[name]}; expected {expected}"
      for name, expected in _IMAGES.items()
      if not name.startswith("image_") and settings[name] != expected
    ]
    if problems:
      raise UserError(listed(f"{folder} is no Emu3 model:", problems))
    text, vq = (config.get(name) or {} for name in ("text_config", "vq_config"))
    fields: dict[str, Any] = ids | named
    fields |= {name: config.get(name) or size for name, size in SIZES.items()}
    levels = vq.get("channel_multiplier", (1, 2, 2, 4))
    return cls(
      tokenizer=tokenizer,
      max_positions=text.get("max_position_embeddings", 9216),
      downsampling=2 ** (len(levels) - 1),
      pixel_mean=tuple(settings["image_mean"]),
      pixel_std=tuple(settings["image_std"]),
      chat_template=settings_files.chat_template(
        folder, tokenizer.chat_template
      ),
      **fields,
    )

  @property
  def answers(self) -> bool:
    """Whether the checkpoint answers in words: Chat does, Gen does not."""
    return self.chat_template is not None

  @property
  def num_image_tokens(self) -> int:
    """Tokens of one generated image: codes and ends of rows."""
    side = self.image_size // self.downsampling
    return side * (side + 1)

  @property
  def prompt_tokens(self) -> int:
    """Tokens of one image in a prompt, its begin and end included."""
    side = self.read_size // self.downsampling
    return len(self._begin(side)) + side * (side + 1) + 2

  @property
  def image_begin(self) -> tuple[int, ...]:
    """Tokens that begin a generated image, and say its size."""
    return self._begin(self.image_size // self.downsampling)

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> list[int]:
    """Returns the prompt of an image after a history.

    The chat form of Emu3-Chat: the system's words, `USER: `, for each item its
    title and its image on a line, the instruction, ` ASSISTANT:` and the begin
    of an image. Without a history the instruction is the whole text, as
    Emu3-Gen was trained. The k-th image of the prompt is the k-th title's.

    Args:
      titles: of the history, oldest first; may be none. Special tokens spelt
        out in a text are taken out, or they would stand for images.
      instruction: what to generate.

    Returns:
      Token ids, BOS first, not padded.
    """
    text = self._plain(instruction)
    if titles:
      place = self._token(self.image_id)
      items = "".join(f"{self._plain(title)}{place}\n" for title in titles)
      text = f"{_SYSTEM} USER: {items}{text} ASSISTANT:"
    return [*self._encode(text), *self.image_begin]

  def title_ids(self, title: str) -> list[int]:
    """Returns the tokens of a title as an answer in words has it.

    Behind ` ASSISTANT:`, with a space; without an end.
    """
    text = f" {self._plain(title).strip()}"
    return list(self.tokenizer.encode(text, add_special_tokens=False))

  def text_prompt_ids(self, text: str) -> list[int]:
    """Returns the prompt of an image of which there is a text only."""
    return self.prompt_ids([], text.strip())

  def question_ids(self, titles: Sequence[str], question: str) -> list[int]:
    """Returns the prompt of an answer in words, about images if there are any.

    By the checkpoint's own chat template.

    Args:
      titles: one for each image, in their order; '' where one has none.
      question: what to answer.

    Returns:
      Token ids, BOS first, not padded.

    Raises:
      UserError: the checkpoint has no chat template, or one that is wrong or
        takes no images.
    """
    if self.chat_template is None:
      raise UserError(
        "this checkpoint has no chat template, so it was made to generate"
        " images and not to answer, as Emu3-Gen is: give one that answers, such"
        " as BAAI/Emu3-Chat-hf"
      )
    text = chat.question(
      self.tokenizer,
      self.chat_template,
      [self._plain(title) for title in titles],
      self._plain(question),
      image=self._token(self.image_id),
      give="BAAI/Emu3-Chat-hf",
      system=_SYSTEM,
    )
    return self._encode(text.removeprefix(self._token(self.bos_id)))

  def pixels(self, image: PIL.Image.Image) -> np.ndarray:
    """Returns the centre square of an image, uint8 [S, S, 3], `read_size`.

    Not padded: what is read is what is generated, and grey bars that stand in
    a history would be generated.
    """
    return centre_square(image, self.read_size)

  def crop(self, image: PIL.Image.Image) -> np.ndarray:
    """Returns the centre square of an image, uint8 [S, S, 3], `image_size`."""
    return centre_square(image, self.image_size)

  def _begin(self, side: int) -> tuple[int, ...]:
    """Returns the tokens before the codes of an image, `side` a row."""
    size = self.tokenizer.encode(f"{side}*{side}", add_special_tokens=False)
    return (self.boi_id, *size, self.wrapper_id)

  def _encode(self, text: str) -> list[int]:
    """Returns BOS and the tokens of a text, each image's in its place."""
    side = self.read_size // self.downsampling
    image = [
      *self._begin(side),
      *[self.image_id] * (side * (side + 1)),
      self.frame_end_id,
      self.eoi_id,
    ]
    ids = [self.bos_id]
    for token in self.tokenizer.encode(text, add_special_tokens=False):
      ids += image if token == self.image_id else [token]
    return ids

  def _token(self, index: int) -> str:
    return self.tokenizer.convert_ids_to_tokens([index])[0]

  def _plain(self, text: str) -> str:
    return plain(self.tokenizer, text)
