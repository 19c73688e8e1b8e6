"""Processor of a generator: texts to token ids, images to pixels."""

from collections.abc import Sequence
import os
from typing import Protocol

import numpy as np
import PIL.Image
import transformers

from genrec_jax.core.errors import UserError
from genrec_jax.data import images


class Processor(Protocol):
  """What data, tools and evaluation ask of the processor of any family."""

  tokenizer: transformers.PreTrainedTokenizerBase
  bos_id: int
  pad_id: int
  end_ids: tuple[int, ...]  # tokens that end an answer in words
  image_size: int  # pixels per side of images, read or generated
  num_image_tokens: int  # placeholders per image of a prompt
  max_positions: int  # tokens that prompt and answer may have together

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> list[int]:
    """Returns the prompt of an image after a history, BOS first.

    Args:
      titles: of the history, oldest first; the k-th image is the k-th title's.
      instruction: what to generate.
    """

  def text_prompt_ids(self, text: str) -> list[int]:
    """Returns the prompt of an image of which there is a text only."""

  def question_ids(self, titles: Sequence[str], question: str) -> list[int]:
    """Returns the prompt of an answer in words, about images if there are any.

    Args:
      titles: one for each image, in their order; '' where one has none.
      question: what to answer.
    """

  def pixels(self, image: PIL.Image.Image) -> np.ndarray:
    """Returns an image as the model reads it: uint8 [S, S, 3]."""

  def crop(self, image: PIL.Image.Image) -> np.ndarray:
    """Returns an image as the model generates it: uint8 [S, S, 3]."""


def open_image(path: str | os.PathLike[str]) -> PIL.Image.Image:
  """Opens an image upright and in RGB, as the import does; `images.upright`.

  Raises:
    UserError: no such file, or no image in it that can be used.
  """
  try:
    with PIL.Image.open(path) as image:
      return images.upright(image)
  except FileNotFoundError:
    raise UserError(f"no image {path}: expected the path of a file") from None
  except Exception as error:  # Pillow's formats raise many kinds
    raise UserError(
      f"{path} cannot be read as an image ({error}): expected a whole PNG, JPEG"
      " or another format that Pillow opens"
    ) from None
