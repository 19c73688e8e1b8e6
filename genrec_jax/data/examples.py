"""Examples: prompt, images and CLIP tokens of one window.

Records are read when an example needs them.
"""

from collections.abc import Callable, Mapping, Sequence
import copy
import functools
import types
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt, Title
from genrec_jax.data import records, titles
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.recent import Recent
from genrec_jax.data.windows import PromptWindows, Windows, WindowSpec

_TITLES_KEPT = 2**16  # in each cache of titles
_IMAGE_CACHE_BYTES = 256 * 2**20


class Processor(Protocol):
  """Prompts and pixels as a generator takes them; see `hf.processor`."""

  @property
  def tokenizer(self) -> Any:
    """A fast one of transformers."""

  @property
  def pad_id(self) -> int:
    """Token that fills prompts up on the left."""

  @property
  def image_size(self) -> int:
    """Pixels per side of the images that are generated."""

  @property
  def read_size(self) -> int:
    """Pixels per side of the images in a prompt."""

  @property
  def num_image_tokens(self) -> int:
    """Tokens of one generated image, all that stands between its codes too."""

  @property
  def prompt_tokens(self) -> int:
    """Tokens of one image in a prompt, its begin and end included."""

  @property
  def max_positions(self) -> int:
    """Tokens that the model was made for, prompt and answer together."""

  @property
  def image_begin(self) -> tuple[int, ...]:
    """Tokens that begin an image: the last of a prompt; see `Generator`."""

  def prompt_ids(self, titles: Sequence[str], instruction: str) -> Any:
    """Returns the prompt's tokens, up to where the image begins."""

  def title_ids(self, title: str) -> list[int]:
    """Returns the tokens of a title as an answer writes it, without an end."""

  def pixels(self, image: Image.Image) -> np.ndarray:
    """Returns an image as the model reads it, uint8 [S, S, 3], `read_size`."""

  def crop(self, image: Image.Image) -> np.ndarray:
    """Returns the centre square of an image, uint8 [S, S, 3], `image_size`."""


# Texts to ids and mask, [B, W] both.
ReadTitles = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class Examples:
  """Examples of all windows of a split, made when indexed.

  An example is a Batch without its axis P. All have the same shapes: T, the
  tokens of the longest prompt, and W, those of the longest title in CLIP, are
  found from the data set's longest titles.
  """

  def __init__(
    self,
    dataset: Dataset,
    windows: Windows,
    processor: Processor,
    clip_tokenizer: Any,
    further_titles: Mapping[str, ReadTitles] = types.MappingProxyType({}),
    numbered: bool = False,
  ):
    """Opens the examples.

    Args:
      dataset: see `dataset.load`.
      windows: of the split.
      processor: of the generator.
      clip_tokenizer: of the reward model.
      further_titles: how encoders besides CLIP are given the next item's title.
      numbered: whether an example holds the number of its window.
    """
    self._items, self._windows = dataset.items, windows
    self._further, self._numbered = dict(further_titles), numbered
    self._processor = processor
    # Of its own: a call's cut and padding are states of a tokenizer, and while
    # a stream's thread reads ahead a reward may be encoding written titles.
    self._clip_tokenizer = copy.deepcopy(clip_tokenizer)
    candidates = titles.candidates(dataset.index)
    # Of prompts of a file the title is the prompt.
    self._of_prompts = isinstance(windows, PromptWindows)
    most = {"most": titles.PROMPT_TOKENS} if self._of_prompts else {}
    self._title_tokens, longest = titles.longest(
      candidates, processor.tokenizer, **most
    )
    if self._of_prompts:
      self._prompt_tokens = max(  # T
        len(processor.prompt_ids([], title)) for title in longest
      )
    else:
      self._prompt_tokens = _prompt_tokens(
        processor, windows.spec, longest, self._title_tokens
      )
    # Cuts what the next line asks for.
    self._clip_tokens = self._clip_tokenizer.model_max_length
    self._clip_tokens = max(map(len, self._clip_ids(candidates)))  # W
    self._make_caches()

  def _make_caches(self) -> None:
    """Keeps what was made last: users share items, and windows overlap."""
    self._pixels = Recent(self._read_pixels, _IMAGE_CACHE_BYTES)
    self._title = functools.lru_cache(_TITLES_KEPT)(self._read_title)
    self._title_ids = functools.lru_cache(_TITLES_KEPT)(self._read_title_ids)

  def __len__(self) -> int:
    """Returns the number of windows."""
    return len(self._windows)

  def __getstate__(self) -> dict[str, Any]:
    """Leaves the caches out: each worker process fills its own."""
    caches = {"_pixels", "_title", "_title_ids"}
    return {k: v for k, v in self.__dict__.items() if k not in caches}

  def __setstate__(self, state: dict[str, Any]) -> None:
    """Starts with empty caches."""
    self.__dict__.update(state)
    self._make_caches()

  def __getitem__(self, number: int) -> Batch:
    """Returns the example of a window, by its number in the split."""
    spec = self._windows.spec
    history_rows, future_rows = self._windows.item_rows(number)
    history, future = history_rows.tolist(), future_rows.tolist()
    prompt = self._prompt(history, future[0])
    while len(prompt) > self._prompt_tokens and history:
      # A title that is longer than the candidates': the oldest item has to go.
      history = history[1:]
      prompt = self._prompt(history, future[0])
    padded, history_images = self._images(history, spec.history_length)
    ahead = [self._pixels(row) for row in future]
    if len(prompt) > self._prompt_tokens:  # of a file, beyond the longest known
      prompt = prompt[: self._prompt_tokens - 1] + prompt[-1:]
    # Prompts are padded on the left, so that all answers begin at one place.
    pads = self._prompt_tokens - len(prompt)
    # Any: a batch is numpy on the host, and arrays of JAX in a step.
    ids: Any = np.asarray([self._processor.pad_id] * pads + prompt, np.int32)
    mask: Any = np.arange(self._prompt_tokens) >= pads  # [T]
    title_ids, title_mask = self._clip_title(future[0])  # [W] both
    return Batch(
      prompt=Prompt(
        ids=ids,
        mask=mask,
        # None are read: a vision tower need not see what is masked.
        images=padded[:0] if self._of_prompts else padded,
      ),
      history=history_images,
      history_mask=self._real(history, spec.history_length),
      future=self._crops(ahead, spec.future_horizon),
      future_mask=self._real(future, spec.future_horizon),
      title_ids=title_ids,
      title_mask=title_mask,
      titles=self._further_titles(future[0]),
      title=self._answer_title(future[0]),
      numbers=np.int32(number) if self._numbered else None,
    )

  def _prompt(self, rows: Sequence[int], target: int) -> list[int]:
    """Returns the tokens of a prompt with the items in some rows.

    Without a history it is the target's title, as of a prompt of a file.
    """
    if self._of_prompts:
      return list(self._processor.prompt_ids([], self._title(target)))
    names = [self._title(row) for row in rows]
    spec = self._windows.spec
    ids = list(self._processor.prompt_ids(names, spec.instruction))
    # Where a title comes first, the answer begins the image.
    return (
      ids[: -len(self._processor.image_begin)] if spec.title_tokens else ids
    )

  def _images(self, rows: Sequence[int], length: int) -> tuple[Any, Any]:
    """Returns items' images as read and cropped, see `_filled`.

    Where all are squares of one size they are one array, which `stack` then
    fills once.
    """
    pairs, side = [self._pixels(row) for row in rows], self._processor.read_size
    read = _filled([one for one, _ in pairs], side, length)
    same = side == self._processor.image_size
    if same and all(one is cropped for one, cropped in pairs):
      return read, read
    return read, self._crops(pairs, length)

  def _crops(self, pairs: Sequence[Any], length: int) -> Any:
    """Returns images as cropped, of pairs of `_pixels`; see `_filled`."""
    crops = [cropped for _, cropped in pairs]
    return _filled(crops, self._processor.image_size, length)

  def _real(self, rows: Sequence[int], length: int) -> Any:
    """Returns which of the images in `_filled` are real, bool [length]."""
    mask = np.arange(length) < len(rows)
    if self._of_prompts:  # some of which have no image
      for place, row in enumerate(rows):
        mask[place] = not self._items[row]["missing"]
    return mask

  def _clip_title(self, row: int) -> tuple[Any, Any]:
    """Returns an item's title for CLIP: ids [W] int32, mask [W] bool."""
    ids, pad = self._title_ids(row), self._clip_tokenizer.pad_token_id
    pads = self._clip_tokens - len(ids)
    real = np.arange(self._clip_tokens) < len(ids)
    return np.asarray(ids + [pad] * pads, np.int32), real

  def _answer_title(self, row: int) -> Title | None:
    """Returns an item's title as an answer writes it, [1, W]: G = 1."""
    length = self._windows.spec.title_tokens
    if not length:
      return None
    words = self._processor.title_ids(self._windows.index.title(row))
    end_id = self._processor.image_begin[0]
    title = titles.as_answer(words, end_id, length)  # [W]
    return jax.tree.map(lambda x: x[None], title)

  def _further_titles(self, row: int) -> dict[str, tuple[Any, Any]]:
    """Returns an item's title for encoders besides CLIP: (ids, mask) [W]."""
    found = {}
    for name, read in self._further.items():
      ids, mask = read([self._windows.index.title(row)])
      found[name] = (ids[0], mask[0])
    return found

  def _read_pixels(self, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an item's image, as read and cropped: uint8 [S, S, 3] both."""
    image, processor = records.decode_image(self._items[row]), self._processor
    read = processor.pixels(image)
    # Squares of one size are alike, and kept once.
    if image.width == image.height and (
      processor.read_size == processor.image_size
    ):
      return read, read
    return read, processor.crop(image)

  def _read_title(self, row: int) -> str:
    """Returns an item's title, cut for the prompt."""
    (short,), _ = titles.shorten(
      [self._windows.index.title(row)],
      self._processor.tokenizer,
      self._title_tokens,
    )
    return short

  def _read_title_ids(self, row: int) -> list[int]:
    """Returns the CLIP tokens of an item's title, at most W."""
    return self._clip_ids([self._windows.index.title(row)])[0]

  def _clip_ids(self, texts: Sequence[str]) -> list[list[int]]:
    return self._clip_tokenizer(
      texts, truncation=True, max_length=self._clip_tokens
    )["input_ids"]


def stack(examples: Sequence[Batch]) -> Batch:
  """Stacks examples to a batch with a leading axis P.

  Arrays that stand at two places of every example do so in the batch.
  """
  made: dict[tuple[int, ...], np.ndarray] = {}

  def one(*leaves: np.ndarray) -> np.ndarray:
    same = tuple(map(id, leaves))
    if same not in made:
      made[same] = np.stack(leaves)
    return made[same]

  return jax.tree.map(one, *examples)


def _filled(images: Sequence[np.ndarray], side: int, length: int) -> Any:
  """Returns uint8 [length, side, side, 3]: images, and then black."""
  filled = np.zeros((length, side, side, 3), np.uint8)
  for place, image in enumerate(images):
    filled[place] = image
  return filled


def _prompt_tokens(
  processor: Processor, spec: WindowSpec, longest: Sequence[str], most: int
) -> int:
  """Returns T, the tokens of the longest prompt.

  Args:
    processor: of the generator.
    spec: of the windows.
    longest: titles.
    most: tokens of each of them, at most.

  Raises:
    UserError: it and the answer are longer than the model was made for.
  """
  # Tokens can merge with their surroundings, so the longest title alone does
  # not always make the longest prompt; one of a few of the longest does.
  tokens = max(
    len(processor.prompt_ids([title] * spec.history_length, spec.instruction))
    for title in longest
  )
  length, answer = spec.history_length, processor.num_image_tokens
  # A title goes before the begin of the image, which is in the prompt here.
  total = tokens + spec.title_tokens + answer
  if total > processor.max_positions:
    # All parts, so that they add up, and of each what makes it smaller.
    words = f", {spec.title_tokens} of its title" if spec.title_tokens else ""
    fewer = " a smaller model.title_tokens," if spec.title_tokens else ""
    raise UserError(
      f"data.history_length={length} makes prompts and answers of up to {total}"
      f" tokens ({length} images of {processor.prompt_tokens},"
      f" {tokens - length * processor.prompt_tokens} of text with titles of up"
      f" to {most}, {answer} of the image that is generated{words}): expected"
      f" at most {processor.max_positions}, which this model was made for; give"
      f" a smaller one,{fewer} shorter titles in the data set, or, where the"
      " model leaves a choice, a smaller model.read_size or model.image_size"
    )
  return tokens - (len(processor.image_begin) if spec.title_tokens else 0)
