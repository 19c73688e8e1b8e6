"""What a Janus checkpoint's tokenizer and image processor do, without torch."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import safetensors_io
from genrec_jax.hf.tokenizers import read_tokenizer

# Fields of `JanusImageProcessor`, transformers 5.23.
_IMAGES = {
  "do_resize": True,
  "do_rescale": True,
  "do_normalize": True,
  "do_pad": True,
  "resample": 3,
  "min_size": 14,
  "rescale_factor": 1 / 255,
}


@dataclasses.dataclass(frozen=True)
class Processor:
  """Turns titles into prompts and pictures into pixels."""

  tokenizer: transformers.PreTrainedTokenizerBase
  bos_id: int
  pad_id: int
  boi_id: int  # begin of image
  eoi_id: int  # end of image
  image_id: int  # placeholder of one image feature
  num_image_tokens: int  # placeholders per image
  image_size: int
  min_size: int = 14  # of the shorter side, before padding

  @classmethod
  def from_pretrained(cls, folder: str | os.PathLike[str]) -> "Processor":
    """Reads the settings of an HF-format folder; no network.

    Raises:
      UserError: files are missing, or settings are not those of Janus; lists
        all that is wrong.
    """
    folder = Path(folder)
    config = safetensors_io.read_config(folder)
    generation = _optional(folder / "generation_config.json")
    images = {**_IMAGES, **_image_settings(folder)}
    tokenizer = read_tokenizer(folder)
    text = config.get("text_config") or {}
    vision = config.get("vision_config") or {}
    size, patch = vision.get("image_size", 384), vision.get("patch_size", 16)
    vocabulary = tokenizer.get_vocab()
    extra = generation.get("generation_kwargs") or {}
    ids = {
      "bos_id": _first(
        generation.get("bos_token_id"),
        text.get("bos_token_id"),
        tokenizer.bos_token_id,
      ),
      "pad_id": _first(
        generation.get("pad_token_id"),
        text.get("pad_token_id"),
        tokenizer.pad_token_id,
      ),
      "boi_id": _first(
        extra.get("boi_token_id"),
        generation.get("boi_token_id"),
        vocabulary.get("<begin_of_image>"),
      ),
      "eoi_id": _first(vocabulary.get("<end_of_image>")),
      "image_id": _first(
        config.get("image_token_id"), vocabulary.get("<image_placeholder>")
      ),
    }
    problems = [
      f"no {name}: neither generation_config.json, config.json nor the"
      " tokenizer has it"
      for name, value in ids.items()
      if value is None
    ]
    problems += _image_problems(images, size)
    if problems:
      raise UserError(listed(f"{folder} is no Janus model:", problems))
    return cls(
      tokenizer=tokenizer,
      num_image_tokens=(size // patch) ** 2,
      image_size=size,
      min_size=images["min_size"],
      **ids,
    )

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> list[int]:
    """Writes the prompt for drawing an image after a history.

    The chat form of Janus: `<|User|>: `, for each item its title and its image
    on a line, the instruction, an empty line, `<|Assistant|>:` and begin of
    image. The k-th image of the prompt is the k-th title's.

    Args:
      titles: of the history, oldest first; may be none. Special tokens spelt
        out in a title are taken out, or they would stand for images.
      instruction: what to draw.

    Returns:
      Token ids, BOS first, not padded.
    """
    image = self._token(self.boi_id)
    image += self._token(self.image_id) * self.num_image_tokens
    image += self._token(self.eoi_id)
    items = "".join(f"{self._plain(title)}{image}\n" for title in titles)
    text = f"<|User|>: {items}{instruction}\n\n<|Assistant|>:"
    text += self._token(self.boi_id)
    ids = self.tokenizer.encode(text, add_special_tokens=False)
    return [self.bos_id, *ids]

  def text_prompt_ids(self, text: str) -> list[int]:
    """Writes the prompt for drawing what a text says."""
    return self.prompt_ids([], self._plain(text))

  def pixels(self, image: PIL.Image.Image) -> np.ndarray:
    """Fits a picture into a square as `JanusImageProcessor` does.

    The longer side becomes `image_size`, bicubic; the rest is filled with the
    middle grey, evenly on both sides.

    Returns:
      uint8 [S, S, 3]; the model itself rescales to [-1, 1].
    """
    image = image.convert("RGB")
    scale = self.image_size / max(image.size)
    width, height = (max(round(n * scale), self.min_size) for n in image.size)
    image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    side = max(width, height)
    # int(0.5 * 255), from the mean that normalises.
    square = np.full((side, side, 3), 127, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = np.asarray(image)
    return square

  def _token(self, index: int) -> str:
    return self.tokenizer.convert_ids_to_tokens(index)

  def _plain(self, text: str) -> str:
    for token in self.tokenizer.get_added_vocab():
      text = text.replace(token, " ")
    return text


def _first(*values: int | None) -> int | None:
  return next((value for value in values if value is not None), None)


def _optional(path: Path) -> Mapping[str, Any]:
  return safetensors_io.read_json(path) if path.exists() else {}


def _image_settings(folder: Path) -> Mapping[str, Any]:
  # transformers 5 writes one file for the whole processor.
  settings = _optional(folder / "processor_config.json")
  return {
    **_optional(folder / "preprocessor_config.json"),
    **(settings.get("image_processor") or {}),
  }


def _image_problems(images: Mapping[str, Any], size: Any) -> list[str]:
  """Says what `Processor.pixels` and the model's own scaling do not do."""
  expected = {name: _IMAGES[name] for name in _IMAGES if name != "min_size"}
  expected |= {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"height": size, "width": size},
  }
  return [
    f"image processor: {name} is {images.get(name)}; expected {value}"
    for name, value in expected.items()
    if images.get(name) != value
  ]
