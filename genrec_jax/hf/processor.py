"""Processor of a generator: texts to token ids, images to pixels."""

from collections.abc import Sequence
import os
from typing import Protocol

import PIL.Image

from genrec_jax.core.errors import UserError
from genrec_jax.data import examples, images


class Processor(examples.Processor, Protocol):
  """Processor of any family: what data asks of it, and tools besides."""

  @property
  def bos_id(self) -> int:
    """Beginning of sequence, the first token of every prompt."""

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Tokens that end an answer in words."""

  def text_prompt_ids(self, text: str) -> list[int]:
    """Returns the prompt of an image of which there is a text only."""

  def question_ids(self, titles: Sequence[str], question: str) -> list[int]:
    """Returns the prompt of an answer in words, about images if there are any.

    Args:
      titles: one for each image, in their order; '' where one has none.
      question: what to answer.
    """


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
