"""From a prepared data set to batches: windows, prompts, pixels, CLIP tokens.

Every array of a batch has the same shape in every batch, so that a step is
compiled once: prompts are left-padded to the longest there can be, histories
and futures shorter than N and F are padded and masked.

Records are read when a window needs them; what starting takes grows with the
number of users by 8 bytes each.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import io
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from PIL import Image

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt
from genrec_jax.data import histories, images
from genrec_jax.data.dataset import Dataset, to_history
from genrec_jax.data.histories import SHORT_HISTORIES
from genrec_jax.data.index import Index

# Of a title in the prompt: enough to name an item, and one page-long title
# cannot make every prompt of the data set long.
_TITLE_TOKENS = 64
# How many titles are tokenized to find the longest: those of most bytes. In a
# larger catalogue one of fewer bytes may have more tokens; it is cut to fit.
_TITLES_READ = 4096
_TITLES_KEPT = 2**16  # of those shortened or tokenized last
_CACHE_BYTES = 256 * 2**20
_PREFETCH = 4  # batches


class EvalBatch(NamedTuple):
  """A batch of evaluation windows and what is known of its P users."""

  batch: Batch
  # 'user', 'target': P ids; 'history', 'future': P lists of ids; 'titles',
  # 'history_titles': those of the target and of the history; 'wants' [P, 3] at
  # the target, where the data set knows them.
  info: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Windows:
  """All windows of a split, numbered by user, then by target."""

  index: Index
  split: str
  history_length: int
  future_horizon: int
  whole: bool  # no others
  starts: np.ndarray  # [U + 1] int64, number of each user's first window

  def __len__(self) -> int:
    """Returns the number of windows."""
    return int(self.starts[-1])

  def locate(self, number: int) -> tuple[int, int, int]:
    """Returns a window's user, target and where its future ends.

    The latter two are positions in the user's rows.
    """
    user = int(np.searchsorted(self.starts, number, side="right")) - 1
    first, _, end = _ranges(self, self.whole, user)
    target = int(first) + int(number - self.starts[user])
    return user, target, min(target + self.future_horizon, int(end))

  def rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the item rows of a window's history and future."""
    user, target, end = self.locate(number)
    rows = self.index.user_rows(user)
    return rows[max(target - self.history_length, 0) : target], rows[target:end]


class Counts(NamedTuple):
  """How many windows and users a split has."""

  windows: int
  padded: int  # windows that are not whole
  users: int  # who have windows
  short: int  # users who have no whole window
  left_out: int  # the short ones, if their windows are dropped, else 0


def windows(
  dataset: Dataset,
  split: str,
  *,
  history_length: int,
  future_horizon: int,
  short_histories: str = "pad",
) -> Windows:
  """Finds the windows of 'train', 'validation' or 'test'.

  A window is up to N items, the target, and the items after it, F with the
  target, as far as the split's part of the user's history goes. If the data
  set has held-out users, validation and test are theirs only.

  Args:
    dataset: see `dataset.load`.
    split: one of `histories.SPLITS`.
    history_length: N, 1 or more.
    future_horizon: F, 1 or more.
    short_histories: 'pad' takes targets with any item before them, 'drop' only
      whole windows: N items before the target and, in training, F from it on.
      Users who have none are left out.

  Raises:
    UserError: a length or `short_histories` is none of these.
  """
  problems = [
    f"data.{name}={value}: expected 1 or more"
    for name, value in (
      ("history_length", history_length),
      ("future_horizon", future_horizon),
    )
    if value < 1
  ]
  if short_histories not in SHORT_HISTORIES:
    problems.append(
      f"data.short_histories={short_histories!r}: expected one of"
      f" {', '.join(SHORT_HISTORIES)}"
    )
  if problems:
    raise UserError("; ".join(problems))
  starts = np.zeros(len(dataset.index.splits) + 1, np.int64)
  found = Windows(
    dataset.index,
    split,
    history_length,
    future_horizon,
    whole=short_histories == "drop",
    starts=starts,
  )
  first, stop, _ = _ranges(found, found.whole)
  np.cumsum(np.maximum(stop - first, 0), out=starts[1:])
  return found


def count(found: Windows) -> Counts:
  """Counts the windows of a split and the users who are too short for it."""
  has = np.diff(found.starts)
  first, stop, _ = _ranges(found, whole=False)
  possible = np.maximum(stop - first, 0)
  first, stop, _ = _ranges(found, whole=True)
  whole = np.maximum(stop - first, 0)
  return Counts(
    windows=len(found),
    padded=int((has - whole).sum()),
    users=int((has > 0).sum()),
    short=int(((possible > 0) & (whole == 0)).sum()),
    left_out=int(((possible > 0) & (has == 0)).sum()),
  )


def describe(dataset: Dataset, **window) -> str:
  """Returns a line on what is trained on and who is left out; see `windows`."""
  found = count(windows(dataset, "train", **window))
  line = f"{found.windows:,} training windows of {found.users:,} users"
  if found.short:
    done = "left out" if found.left_out else "padded and masked"
    line += f"; {found.short:,} users too short for a whole one are {done}"
  return line


def _ranges(found, whole, user=slice(None)):
  """Returns first target, the one after the last, and end, of some users."""
  index, train = found.index, found.split == "train"
  lengths = index.starts[1:][user] - index.starts[:-1][user]
  splits = index.splits[user]
  first, stop, end = histories.target_ranges(
    found.split, lengths, splits[..., 0], splits[..., 1], splits[..., 2]
  )
  if not train and index.held_out:
    stop = np.where(splits[..., 0] > 0, first, stop)
  if whole:
    first = np.maximum(first, found.history_length)
    stop = end - found.future_horizon + 1 if train else stop
  return first, stop, end


def train_batches(
  dataset: Dataset,
  processor,
  clip_tokenizer,
  *,
  history_length: int,
  future_horizon: int,
  batch_size: int,
  instruction: str,
  seed: int,
  short_histories: str = "pad",
  workers: int = 0,
  rows: Sequence[int] | None = None,
) -> grain.IterDataset:
  """Returns an endless stream of training batches.

  Its iterator has `get_state()` and `set_state()`. The stream depends on the
  arguments only, not on `workers`, with any number of which a state can be
  restored. Each epoch has its own order. A state is the same whatever `rows`
  are, so a run can go on in another number of processes.

  Args:
    dataset: see `dataset.load`.
    processor: of the generator, see `hf.processor`.
    clip_tokenizer: of the reward model; titles are cut to its
      `model_max_length` and padded to the data set's longest.
    history_length: N, items in the prompt at most.
    future_horizon: F, items from the target on at most.
    batch_size: P, over all processes.
    instruction: what the prompt asks for.
    seed: of the order.
    short_histories: see `windows`.
    workers: processes that make batches, which needs absl flags to be parsed;
      0 makes them in a thread.
    rows: which of the P windows of each batch to make, those this process has
      devices for; None: all.

  Raises:
    UserError: there are no windows.
  """
  found = windows(
    dataset,
    "train",
    history_length=history_length,
    future_horizon=future_horizon,
    short_histories=short_histories,
  )
  make = _Maker(dataset, found, processor, clip_tokenizer, instruction)
  if not len(make):
    raise UserError(
      f"{dataset.path} has no training windows: expected at least one; use more"
      " data, a smaller future_horizon when preparing it, or"
      " data.short_histories=pad."
    )
  # Without end, for any run; grain's own number for it overflows in slices.
  stream = grain.MapDataset.range(len(make)).seed(seed).shuffle()
  stream = stream.repeat(2**40 // len(make) + 1).batch(batch_size)
  rows = np.arange(batch_size) if rows is None else np.asarray(rows)
  return _Stream(stream.map(functools.partial(_batch, make, rows)), workers)


def eval_batches(
  dataset: Dataset,
  processor,
  clip_tokenizer,
  *,
  history_length: int,
  future_horizon: int,
  batch_size: int,
  instruction: str,
  short_histories: str = "pad",
  split: str = "test",
  num_users: int | None = None,
) -> Sequence[EvalBatch]:
  """Returns the windows of an evaluation split, always in the same order.

  Made when indexed; the last batch may have fewer rows than the others.

  Args:
    dataset: see `dataset.load`.
    processor: see `train_batches`, as for those not named here.
    clip_tokenizer: of the reward model.
    history_length: N.
    future_horizon: F.
    batch_size: P.
    instruction: as in training.
    short_histories: see `windows`.
    split: 'validation' or 'test'.
    num_users: at most so many, spread evenly over the split; None: all.

  Raises:
    UserError: the split has no windows.
  """
  found = windows(
    dataset,
    split,
    history_length=history_length,
    future_horizon=future_horizon,
    short_histories=short_histories,
  )
  if not len(found):
    raise UserError(
      f"{dataset.path} has no {split} windows: expected users with at least "
      f"{history_length + 2 if found.whole else 3} items. Prepare a data set "
      "with longer histories, or give data.short_histories=pad."
    )
  make = _Maker(dataset, found, processor, clip_tokenizer, instruction)
  number = min(num_users or len(make), len(make))
  chosen = np.arange(number) * len(make) // number

  def batch_of(indices):
    return EvalBatch(
      _stack([make(index) for index in indices]),
      _info(dataset, found, indices),
    )

  batches = [
    chosen[start : start + batch_size] for start in range(0, number, batch_size)
  ]
  return grain.MapDataset.source(batches).map(batch_of)


def decode(record: Mapping[str, Any]) -> Image.Image:
  """Returns the picture of a record of `Dataset.items`, upright and RGB.

  Raises:
    UserError: names the item whose bytes are no picture.
  """
  try:
    return images.upright(Image.open(io.BytesIO(record["image"])))
  except Exception as error:  # Pillow raises many kinds
    raise UserError(
      f"The image of item {record['id'].decode()!r} cannot be decoded: "
      f"{error}. Expected PNG or JPEG; prepare the data set again."
    ) from error


class _Stream(grain.IterDataset):
  """Reads batches ahead; its state is the number of the next one."""

  def __init__(self, batches: grain.MapDataset, workers: int):
    super().__init__(batches)
    self._workers = workers

  def __iter__(self):
    return _StreamIterator(self._parent, self._workers)


class _StreamIterator(grain.DatasetIterator):
  """Counts batches, which grain does for each of its processes apart.

  So a state can be restored with another number of them. Opening starts the
  reading anew, at any batch.
  """

  def __init__(self, batches, workers):
    super().__init__()
    self._batches, self._workers = batches, workers
    self._next, self._opened = 0, None

  def __next__(self):
    self._assert_not_closed()
    if self._opened is None:
      self._opened = self._open()
    batch = next(self._opened)
    self._next += 1
    return batch

  def get_state(self):
    return {"next_index": self._next}

  def set_state(self, state):
    self._stop()
    self._next = state["next_index"]

  def close(self):
    super().close()
    self._stop()

  def start_prefetch(self):
    if self._opened is None:
      self._opened = self._open()
    self._opened.start_prefetch()

  def _open(self):
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
    stream = self._batches[self._next :].to_iter_dataset(threads)
    if self._workers:
      stream = stream.mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=self._workers, per_worker_buffer_size=_PREFETCH
        )
      )
    return iter(stream)

  def _stop(self):
    if self._opened is not None:
      self._opened.close()
      self._opened = None


class _Maker:
  """Makes the window of a given number: a Batch without the axis P."""

  def __init__(self, dataset, found, processor, clip_tokenizer, instruction):
    self._items, self._windows = dataset.items, found
    self._processor, self._instruction = processor, instruction
    self._clip_tokenizer = clip_tokenizer
    titles = _long_titles(dataset.index)
    self._title_tokens, longest = _longest(titles, processor.tokenizer)
    # Tokens can merge with their surroundings, so the longest title alone does
    # not always make the longest prompt; a few of the longest do.
    self._prompt_tokens = max(
      len(processor.prompt_ids([title] * found.history_length, instruction))
      for title in longest
    )
    total = self._prompt_tokens + processor.num_image_tokens
    if total > processor.max_positions:
      raise UserError(
        f"data.history_length={found.history_length} makes prompts and answers "
        f"of up to {total} tokens: expected at most {processor.max_positions}, "
        "which this model was made for; give a smaller one."
      )
    self._clip_tokens = clip_tokenizer.model_max_length
    self._clip_tokens = max(
      len(ids) for ids in self._clip_ids(titles)["input_ids"]
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

  def __len__(self):
    return len(self._windows)

  def __getstate__(self):
    kept = {"_pixels", "_title", "_title_ids"}  # each process fills its own
    return {k: v for k, v in self.__dict__.items() if k not in kept}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._remember()

  def __call__(self, number):
    history, future = self._windows.rows(number)
    history, future = history.tolist(), future.tolist()
    ids = self._prompt(history)
    while len(ids) > self._prompt_tokens:  # the oldest item has to go
      history = history[1:]
      ids = self._prompt(history)
    missing = self._prompt_tokens - len(ids)
    seen, cropped, history_mask = self._images(
      history, self._windows.history_length
    )
    _, future_images, future_mask = self._images(
      future, self._windows.future_horizon
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
    return list(self._processor.prompt_ids(titles, self._instruction))

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
    image = decode(self._items[row])
    padded = self._processor.pixels(image)
    if image.width == image.height:  # alike, and kept once
      return padded, padded
    return padded, self._processor.crop(image)

  def _read_title(self, row):
    (short,), _ = _shorten(
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


def _batch(make, rows, numbers):
  """Makes some rows of a batch of numbered windows."""
  return _stack([make(int(number)) for number in numbers[rows]])


def _info(dataset, found, numbers):
  """Returns what `EvalBatch.info` holds."""
  names = ("user", "target", "history", "future", "titles", "history_titles")
  info = {name: [] for name in names}
  wants = []
  for number in numbers:
    user, target, end = found.locate(number)
    record = dataset.users[user]
    history = to_history(record)
    info["user"].append(history.user)
    info["target"].append(history.items[target])
    start = max(target - found.history_length, 0)
    info["history"].append(list(history.items[start:target]))
    info["future"].append(list(history.items[target:end]))
    before, after = found.rows(number)
    info["titles"].append(dataset.index.title(after[0]))
    info["history_titles"].append([dataset.index.title(row) for row in before])
    if "wants" in record:
      wants.append(record["wants"][target])
  return info | ({"wants": np.stack(wants)} if wants else {})


def _long_titles(index):
  """Returns the titles of most bytes, in the order of items."""
  lengths = np.diff(index.title_starts)
  rows = np.arange(len(lengths))
  if len(rows) > _TITLES_READ:
    rows = np.sort(np.argpartition(lengths, -_TITLES_READ)[-_TITLES_READ:])
  return [index.title(row) for row in rows]


def _longest(titles, tokenizer, sample=32):
  """Returns how many tokens a title has at most, and the longest titles."""
  short, lengths = _shorten(titles, tokenizer, _TITLE_TOKENS)
  order = sorted(range(len(titles)), key=lambda i: -lengths[i])[:sample]
  return lengths[order[0]], [short[i] for i in order]


def _shorten(titles, tokenizer, most):
  """Cuts titles to `most` tokens; returns them and their numbers of tokens."""
  # Not by `truncation`, a state of the tokenizer: another stream's thread may
  # be encoding prompts with it now, and would get them cut.
  tokens = tokenizer(
    titles, add_special_tokens=False, return_offsets_mapping=True
  )
  cut = [offsets[:most] for offsets in tokens["offset_mapping"]]
  short = [
    title[: offsets[-1][1]] if offsets else title
    for title, offsets in zip(titles, cut, strict=True)
  ]
  return short, [len(offsets) for offsets in cut]


def _stack(rows):
  """Stacks windows to a Batch with a leading axis P."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
