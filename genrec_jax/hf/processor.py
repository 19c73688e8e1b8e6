"""Processor of a generator: texts to token ids, images to pixels."""

from collections.abc import Sequence
import os
from typing import Protocol

import numpy as np
import PIL.Image

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Prompt
from genrec_jax.data import examples, images


class Processor(examples.Processor, Protocol):
  """Processor of any family: what data asks of it, and tools besides."""

  @property
  def bos_id(self) -> int:
    """Beginning of sequence, the first token of every prompt."""

  @property
  def answers(self) -> bool:
    """Whether the checkpoint was made to answer in words, too."""

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


def centre_square(image: PIL.Image.Image, side: int) -> np.ndarray:
  """Returns the centre square of an image, uint8 [side, side, 3].

  The shorter side becomes `side`, bicubic, and the middle of the longer one
  stays.
  """
  image = images.upright(image)
  width, height = image.size
  shorter = min(width, height)
  left, top = (width - shorter) / 2, (height - shorter) / 2
  square = image.resize(
    (side, side),
    PIL.Image.Resampling.BICUBIC,
    # Beyond it the filter still sees the image, as if cropped afterwards.
    box=(left, top, left + shorter, top + shorter),
  )
  return np.asarray(square)


def make_prompt(
  processor: Processor, ids: Sequence[int], images: Sequence[PIL.Image.Image]
) -> Prompt:
  """Returns one prompt, P = 1, of token ids and the images they stand for.

  Args:
    processor: of the generator.
    ids: of `Processor.prompt_ids` or its siblings; T of them.
    images: upright and RGB, in the order of their placeholders, as `open_image`
      returns them.
  """
  side = processor.read_size
  pixels = np.zeros((1, len(images), side, side, 3), np.uint8)
  for place, image in enumerate(images):
    pixels[0, place] = processor.pixels(image)
  tokens = np.asarray([ids], np.int32)  # [1, T]
  return Prompt(ids=tokens, mask=np.ones_like(tokens, bool), images=pixels)


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
