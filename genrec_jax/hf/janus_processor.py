"""Processor of Janus, as `JanusProcessor` of transformers; needs no torch."""

from collections.abc import Sequence
import dataclasses
import os
from pathlib import Path

import numpy as np
import PIL.Image
import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import images
from genrec_jax.hf import chat, janus_settings, safetensors_io
from genrec_jax.hf import settings as settings_files
from genrec_jax.hf.processor import centre_square
from genrec_jax.hf.tokenizers import plain, read_tokenizer

# Chat template of published Janus checkpoints, for those that bring none:
# one user's turn.
CHAT = """<|User|>: {% for part in messages[0]['content'] -%}
{%- if part['type'] == 'image' -%}
{{ ('' if loop.first else '\\n') + '<image_placeholder>\\n' }}
{%- else -%}
{%- set text = part['text'].lstrip() if loop.first else part['text'] -%}
{{ text.rstrip() if loop.last else text }}
{%- endif -%}
{%- endfor -%}
{{ '\\n\\n<|Assistant|>:' }}"""
# System prompt of transformers' processor, put before questions where a
# checkpoint asks for it.
_SYSTEM = (
  "You are a helpful language and vision assistant. You are able to understand"
  " the visual content that the user provides, and assist the user with a"
  " variety of tasks using natural language.\n\n"
)


@dataclasses.dataclass(frozen=True)
class JanusProcessor:
  """Processor of Janus: titles to prompts, images to pixels."""

  tokenizer: transformers.PreTrainedTokenizerBase
  bos_id: int
  pad_id: int
  boi_id: int  # begin of image
  eoi_id: int  # end of image
  image_id: int  # placeholder of one image feature
  num_image_tokens: int  # placeholders per image
  image_size: int
  end_ids: tuple[int, ...]  # tokens that end an answer in words
  max_positions: int  # tokens that prompt and answer may have together
  min_size: int = 14  # of the shorter side, before padding
  system: str = ""  # said before a question
  # Jinja, as transformers renders it; a dict holds several by name.
  chat_template: str = CHAT

  @property
  def answers(self) -> bool:
    """True: a Janus answers in words, too."""
    return True

  @property
  def read_size(self) -> int:
    """Pixels per side of the images in a prompt: as of generated ones."""
    return self.image_size

  @property
  def prompt_tokens(self) -> int:
    """Tokens of one image in a prompt, its begin and end included."""
    return self.num_image_tokens + 2

  @classmethod
  def from_pretrained(cls, folder: str | os.PathLike[str]) -> "JanusProcessor":
    """Reads the settings of an HF-format folder; no network.

    Raises:
      UserError: files are missing, or settings are not those of Janus; lists
        all that is wrong.
    """
    folder = Path(folder)
    config = safetensors_io.read_config(folder)
    generation = settings_files.read_optional(folder / "generation_config.json")
    settings = settings_files.image_settings(folder)
    tokenizer = read_tokenizer(folder)
    text = config.get("text_config") or {}
    vision = config.get("vision_config") or {}
    # Defaults of `JanusVisionConfig`.
    size, patch = vision.get("image_size", 384), vision.get("patch_size", 16)
    ids, problems = janus_settings.special_ids(tokenizer, config, generation)
    if not settings:
      problems.append(
        "neither preprocessor_config.json nor an image processor in"
        " processor_config.json; take that of the same Janus checkpoint"
      )
    else:
      settings = {**janus_settings.IMAGES, **settings}
      problems += janus_settings.image_problems(settings, size)
    if problems:
      raise UserError(listed(f"{folder} is no Janus model:", problems))
    whole = settings_files.read_optional(folder / settings_files.PROCESSOR)
    return cls(
      tokenizer=tokenizer,
      num_image_tokens=(size // patch) ** 2,
      image_size=size,
      max_positions=text.get("max_position_embeddings", 2048),
      min_size=settings["min_size"],
      system=_SYSTEM if whole.get("use_default_system_prompt") else "",
      chat_template=settings_files.chat_template(
        folder, tokenizer.chat_template
      )
      or CHAT,
      **ids,
    )

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> list[int]:
    """Returns the prompt of an image after a history.

    The chat form of Janus: `<|User|>: `, for each item its title and its image
    on a line, the instruction, an empty line, `<|Assistant|>:` and begin of
    image. The k-th image of the prompt is the k-th title's.

    Args:
      titles: of the history, oldest first; may be none. Special tokens spelt
        out in a text are taken out, or they would stand for images.
      instruction: what to generate.

    Returns:
      Token ids, BOS first, not padded.
    """
    image = self._image()
    items = "".join(f"{self._plain(title)}{image}\n" for title in titles)
    text = f"<|User|>: {items}{self._plain(instruction)}\n\n<|Assistant|>:"
    return self._encode(text + self._token(self.boi_id))

  @property
  def image_begin(self) -> tuple[int, ...]:
    """The token that begins an image, the last of an image's prompt."""
    return (self.boi_id,)

  def title_ids(self, title: str) -> list[int]:
    """Returns the tokens of a title as an answer in words has it.

    Behind `<|Assistant|>:`, with a space; without an end.
    """
    text = f" {self._plain(title).strip()}"
    return list(self.tokenizer.encode(text, add_special_tokens=False))

  def text_prompt_ids(self, text: str) -> list[int]:
    """Returns the prompt of an image of which there is a text only."""
    return self.prompt_ids([], text.strip())

  def question_ids(self, titles: Sequence[str], question: str) -> list[int]:
    """Returns the prompt of an answer in words, about images if there are any.

    What `JanusProcessor` makes of one user's turn by the checkpoint's own chat
    template: for each item its title, if it has one, and its image, then the
    question.

    Args:
      titles: one for each image, in their order; '' where one has none.
      question: what to answer.

    Returns:
      Token ids, BOS first, not padded.

    Raises:
      UserError: the checkpoint's chat template is wrong or takes no images, or
        it has several and none is the default; see `settings.chat_template`.
    """
    place = self._token(self.image_id)
    text = chat.question(
      self.tokenizer,
      self.chat_template,
      [self._plain(title) for title in titles],
      self._plain(question),
      image=place,
      give="deepseek-community/Janus-Pro-1B",
    )
    # Some templates spell BOS out; `_encode` puts it first.
    text = self.system + text.removeprefix(self._token(self.bos_id))
    return self._encode(text.replace(place, self._image()))

  def pixels(self, image: PIL.Image.Image) -> np.ndarray:
    """Pads an image to a square as `JanusImageProcessorPil` does.

    What the vision tower reads. The longer side becomes `image_size`, bicubic;
    the rest is filled with the middle grey, evenly on both sides. Images of
    other modes than RGB become RGB by `images.upright`. (Where torchvision is
    installed, transformers prefers it to Pillow: its bicubic differs by at most
    2 of 255 at 384 pixels, in under 1 % of values.)

    Returns:
      uint8 [S, S, 3]; the model itself rescales to [-1, 1].
    """
    image = images.upright(image)
    scale = self.image_size / max(image.size)
    # A very long image keeps a few rows, as there.
    width, height = (max(round(n * scale), self.min_size) for n in image.size)
    image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    side = max(width, height)
    # int(0.5 * 255), from the mean that normalises.
    square = np.full((side, side, 3), 127, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.asarray(image)
    return square

  def crop(self, image: PIL.Image.Image) -> np.ndarray:
    """Returns the centre square of an image, as Janus was trained to make it.

    The shorter side becomes `image_size`, bicubic, and the middle of the longer
    one stays (Janus, arXiv 2410.13848, training details): what the image
    tokenizer encodes, and CLIP compares, of real images.

    Returns:
      uint8 [S, S, 3].
    """
    return centre_square(image, self.image_size)

  def _token(self, index: int) -> str:
    return self.tokenizer.convert_ids_to_tokens([index])[0]

  def _image(self) -> str:
    """Returns the tokens that an image takes, spelt out."""
    places = self._token(self.image_id) * self.num_image_tokens
    return self._token(self.boi_id) + places + self._token(self.eoi_id)

  def _encode(self, text: str) -> list[int]:
    # Tokenizers differ in whether they add BOS, or an end token, by themselves.
    ids = self.tokenizer.encode(text, add_special_tokens=False)
    return [self.bos_id, *ids]

  def _plain(self, text: str) -> str:
    return plain(self.tokenizer, text)
