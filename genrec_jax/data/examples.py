"""Examples: prompt, images and CLIP tokens of one window.

Records are read when an example needs them.
"""

from collections.abc import Sequence
import functools
from typing import Any

import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt
from genrec_jax.data import records, titles
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.windows import Windows

_TITLES_KEPT = 2**16  # of those shortened or tokenized last
_CACHE_BYTES = 256 * 2**20


class Examples:
  """Examples of all windows of a split, made when indexed.

  An example is a Batch without its axis P.
  """

  def __init__(self, dataset, windows, processor, clip_tokenizer):
    spec = windows.spec
    self._items, self._windows = dataset.items, windows
    self._processor, self._spec = processor, spec
    self._clip_tokenizer = clip_tokenizer
    long = titles.long_titles(dataset.index)
    self._title_tokens, longest = titles.longest(long, processor.tokenizer)
    # Tokens can merge with their surroundings, so the longest title alone does
    # not always make the longest prompt; a few of the longest do.
    self._prompt_tokens = max(
      len(processor.prompt_ids([title] * spec.history_length, spec.instruction))
      for title in longest
    )
    total = self._prompt_tokens + processor.num_image_tokens
    if total > processor.max_positions:
      raise UserError(
        f"data.history_length={spec.history_length} makes prompts and answers "
        f"of up to {total} tokens: expected at most {processor.max_positions}, "
        "which this model was made for; give a smaller one."
      )
    self._clip_tokens = clip_tokenizer.model_max_length
    self._clip_tokens = max(
      len(ids) for ids in self._clip_ids(long)["input_ids"]
    )
    self._remember()

  def _remember(self):
    """Keeps what was made last: users share items, and windows overlap."""
    side = self._processor.image_size
    self._pixels = functools.lru_cache(_CACHE_BYTES // (6 * side * side))(
      self._read_pixels
    )
    self._title = functools.lru_cache(_TITLES_KEPT)(self._read_title)
    self._title_ids = functools.lru_cache(_TITLES_KEPT)(self._read_title_ids)

  def __len__(self) -> int:
    """Returns the number of windows."""
    return len(self._windows)

  def __getstate__(self):
    """Leaves the caches out: each process fills its own."""
    kept = {"_pixels", "_title", "_title_ids"}
    return {k: v for k, v in self.__dict__.items() if k not in kept}

  def __setstate__(self, state):
    """Starts with empty caches."""
    self.__dict__.update(state)
    self._remember()

  def __getitem__(self, number: int) -> Batch:
    """Returns the example of a window, by its number in the split."""
    history, future = self._windows.item_rows(number)
    history, future = history.tolist(), future.tolist()
    ids = self._prompt(history)
    while len(ids) > self._prompt_tokens:  # the oldest item has to go
      history = history[1:]
      ids = self._prompt(history)
    missing = self._prompt_tokens - len(ids)
    seen, cropped, history_mask = self._images(
      history, self._spec.history_length
    )
    _, future_images, future_mask = self._images(
      future, self._spec.future_horizon
    )
    title_ids = self._title_ids(future[0])
    width = self._clip_tokens
    return Batch(
      prompt=Prompt(
        ids=np.asarray([self._processor.pad_id] * missing + ids, np.int32),
        mask=np.arange(self._prompt_tokens) >= missing,
        images=seen,
      ),
      history=cropped,
      history_mask=history_mask,
      future=future_images,
      future_mask=future_mask,
      title_ids=np.asarray(
        title_ids
        + [self._clip_tokenizer.pad_token_id] * (width - len(title_ids)),
        np.int32,
      ),
      title_mask=np.arange(width) < len(title_ids),
    )

  def _prompt(self, rows):
    titles = [self._title(row) for row in rows]
    return list(self._processor.prompt_ids(titles, self._spec.instruction))

  def _images(self, rows, length):
    """Returns padded and cropped images [length, h, w, 3] and their mask.

    The real ones come first.
    """
    side = self._processor.image_size
    pixels = np.zeros((2, length, side, side, 3), np.uint8)
    for place, row in enumerate(rows):
      pixels[:, place] = self._pixels(row)
    return *pixels, np.arange(length) < len(rows)

  def _read_pixels(self, row):
    """Returns an item's image, padded and cropped."""
    image = records.decode_image(self._items[row])
    padded = self._processor.pixels(image)
    if image.width == image.height:  # alike, and kept once
      return padded, padded
    return padded, self._processor.crop(image)

  def _read_title(self, row):
    (short,), _ = titles.shorten(
      [self._windows.index.title(row)],
      self._processor.tokenizer,
      self._title_tokens,
    )
    return short

  def _read_title_ids(self, row):
    return self._clip_ids([self._windows.index.title(row)])["input_ids"][0]

  def _clip_ids(self, titles):
    return self._clip_tokenizer(
      titles, truncation=True, max_length=self._clip_tokens
    )


def describe_users(
  dataset: Dataset, windows: Windows, numbers: Sequence[int]
) -> dict[str, Any]:
  """Returns ids and titles of some windows; see `stream.EvalBatch.info`."""
  names = ("user", "target", "history", "future", "titles", "history_titles")
  info = {name: [] for name in names}
  wants = []
  for number in numbers:
    user, start, target, end = windows[number]
    record = dataset.users[user]
    history = records.to_history(record)
    info["user"].append(history.user)
    info["target"].append(history.items[target])
    info["history"].append(list(history.items[start:target]))
    info["future"].append(list(history.items[target:end]))
    before, after = windows.item_rows(number)
    info["titles"].append(dataset.index.title(after[0]))
    info["history_titles"].append([dataset.index.title(row) for row in before])
    if "wants" in record:
      wants.append(record["wants"][target])
  return info | ({"wants": np.stack(wants)} if wants else {})
