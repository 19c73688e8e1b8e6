"""From a prepared data set to batches: windows, prompts, pixels, CLIP tokens.

Every array of a batch has the same shape in every batch, so that a step is
compiled once: prompts are left-padded to the longest there can be, histories
and futures shorter than N and F are padded and masked.
"""

from collections.abc import Mapping, Sequence
import io
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from PIL import Image

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt
from genrec_jax.data import builders, histories
from genrec_jax.hf.processor import upright

# Of a title in the prompt: enough to name an item, and one page-long title
# cannot make every prompt of the data set long.
_TITLE_TOKENS = 64
_CACHE_BYTES = 256 * 2**20
_PREFETCH = 4  # batches


class EvalBatch(NamedTuple):
  """A batch of evaluation windows and what is known of its P users."""

  batch: Batch
  # 'user', 'target': P ids; 'history', 'future': P lists of ids; 'wants'
  # [P, 3] at the target, where the data set knows them.
  info: dict[str, Any]


class Windows(NamedTuple):
  """All windows of a split, by position in a data set's `users`."""

  rows: list[np.ndarray]  # one per user: [L] int64 positions in `items`
  user: np.ndarray  # [W] int64
  target: np.ndarray  # [W] int64, position in the user's rows
  end: np.ndarray  # [W] int64, where the future ends at the latest


def windows(dataset: builders.Dataset, split: str) -> Windows:
  """Lists the windows of 'train', 'validation' or 'test', in order of users.

  If the data set has held-out users, validation and test are theirs only.
  """
  rows, users, targets, ends = [], [], [], []
  records = [dataset.users[i] for i in range(len(dataset.users))]
  some_held_out = any(record["train_end"] == 0 for record in records)
  for user, record in enumerate(records):
    rows.append(np.asarray(record["rows"]))
    if split != "train" and some_held_out and record["train_end"] > 0:
      continue
    found, end = histories.targets(builders.to_history(record), split)
    users += [user] * len(found)
    targets += found
    ends += [end] * len(found)
  columns = (np.asarray(column, np.int64) for column in (users, targets, ends))
  return Windows(rows, *columns)


def train_batches(
  dataset: builders.Dataset,
  processor,
  clip_tokenizer,
  *,
  history_length: int,
  future_horizon: int,
  batch_size: int,
  instruction: str,
  seed: int,
  workers: int = 0,
  shard_index: int = 0,
  shard_count: int = 1,
) -> grain.IterDataset:
  """Returns an endless stream of training batches.

  Its iterator has `get_state()` and `set_state()`; the stream depends on the
  arguments only, not on `workers`. Each epoch has its own order.

  Args:
    dataset: see `builders.load`.
    processor: of the generator, see `hf.processor`.
    clip_tokenizer: of the reward model; titles are cut to its
      `model_max_length` and padded to the data set's longest.
    history_length: N, items in the prompt at most.
    future_horizon: F, items from the target on at most.
    batch_size: P, of this shard.
    instruction: what the prompt asks for.
    seed: of the order.
    workers: processes that make batches, which needs absl flags to be parsed;
      0 makes them in a thread.
    shard_index: which of `shard_count` disjoint shares of the windows.
    shard_count: number of shares, usually processes.

  Raises:
    UserError: this shard has no windows.
  """
  make = _Maker(
    dataset,
    windows(dataset, "train"),
    processor,
    clip_tokenizer,
    history_length,
    future_horizon,
    instruction,
  )
  stream = grain.MapDataset.range(len(make))[shard_index::shard_count]
  if not len(stream):
    raise UserError(
      f"{dataset.path}: {len(make)} training windows in {shard_count} shards "
      f"leave none for shard {shard_index}. Expected at least one each; use "
      "more data, or a smaller future_horizon when preparing it."
    )
  stream = stream.seed(seed).shuffle().repeat()
  stream = stream.map(make).batch(batch_size, batch_fn=_stack)
  threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
  stream = stream.to_iter_dataset(threads)
  if workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=_PREFETCH
      )
    )
  return stream


def eval_batches(
  dataset: builders.Dataset,
  processor,
  clip_tokenizer,
  *,
  history_length: int,
  future_horizon: int,
  batch_size: int,
  instruction: str,
  split: str = "test",
  num_users: int | None = None,
) -> Sequence[EvalBatch]:
  """Returns the windows of an evaluation split, always in the same order.

  Made when indexed; the last batch may have fewer rows than the others.

  Args:
    dataset: see `builders.load`.
    processor: see `train_batches`, as for those not named here.
    clip_tokenizer: of the reward model.
    history_length: N.
    future_horizon: F.
    batch_size: P.
    instruction: as in training.
    split: 'validation' or 'test'.
    num_users: at most so many, spread evenly over the split; None: all.

  Raises:
    UserError: the split has no windows.
  """
  found = windows(dataset, split)
  if not len(found.user):
    raise UserError(
      f"{dataset.path} has no {split} windows: expected users with at least 3 "
      "items. Prepare a data set with longer histories."
    )
  make = _Maker(
    dataset,
    found,
    processor,
    clip_tokenizer,
    history_length,
    future_horizon,
    instruction,
  )
  number = min(num_users or len(make), len(make))
  chosen = np.arange(number) * len(make) // number

  def batch_of(indices):
    return EvalBatch(
      _stack([make(index) for index in indices]),
      _info(dataset, found, indices, history_length, future_horizon),
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
    return upright(Image.open(io.BytesIO(record["image"])))
  except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
    raise UserError(
      f"The image of item {record['id'].decode()!r} cannot be decoded: "
      f"{error}. Expected PNG or JPEG; prepare the data set again."
    ) from error


class _Maker:
  """Makes the window of a given index: a Batch without the axis P."""

  def __init__(
    self,
    dataset,
    found,
    processor,
    clip_tokenizer,
    history_length,
    future_horizon,
    instruction,
  ):
    self._items, self._windows = dataset.items, found
    self._processor, self._instruction = processor, instruction
    self._history, self._future = history_length, future_horizon
    titles = [
      dataset.items[row]["title"].decode() for row in range(len(dataset.items))
    ]
    self._titles, longest = _shorten(titles, processor.tokenizer)
    # Tokens can merge with their surroundings, so the longest title alone does
    # not always make the longest prompt; a few of the longest do.
    self._prompt_tokens = max(
      len(processor.prompt_ids([title] * history_length, instruction))
      for title in longest
    )
    tokens = clip_tokenizer(
      titles,
      padding=True,
      padding_side="right",  # whatever the checkpoint's default
      truncation=True,
      max_length=clip_tokenizer.model_max_length,
    )
    self._title_ids = np.asarray(tokens["input_ids"], np.int32)
    self._title_mask = np.asarray(tokens["attention_mask"], bool)
    side = processor.image_size
    self._cache, self._cached = {}, _CACHE_BYTES // (3 * side * side)

  def __len__(self):
    return len(self._windows.user)

  def __getstate__(self):
    return self.__dict__ | {"_cache": {}}  # each worker fills its own

  def __call__(self, index):
    history, future = _span(self._windows, index, self._history, self._future)
    ids = self._prompt(history)
    while len(ids) > self._prompt_tokens:  # the oldest item has to go
      history = history[1:]
      ids = self._prompt(history)
    missing = self._prompt_tokens - len(ids)
    images, history_mask = self._images(history, self._history)
    future_images, future_mask = self._images(future, self._future)
    return Batch(
      prompt=Prompt(
        ids=np.asarray([self._processor.pad_id] * missing + ids, np.int32),
        mask=np.arange(self._prompt_tokens) >= missing,
        images=images,
      ),
      history_mask=history_mask,
      future=future_images,
      future_mask=future_mask,
      title_ids=self._title_ids[future[0]],
      title_mask=self._title_mask[future[0]],
    )

  def _prompt(self, rows):
    titles = [self._titles[row] for row in rows]
    return list(self._processor.prompt_ids(titles, self._instruction))

  def _images(self, rows, length):
    """Returns pixels [length, h, w, 3], the real ones first, and their mask."""
    side = self._processor.image_size
    pixels = np.zeros((length, side, side, 3), np.uint8)
    for place, row in enumerate(rows):
      pixels[place] = self._pixels(int(row))
    return pixels, np.arange(length) < len(rows)

  def _pixels(self, row):
    if row not in self._cache:
      image = decode(self._items[row])
      if len(self._cache) >= self._cached:
        self._cache.pop(next(iter(self._cache)))
      self._cache[row] = self._processor.pixels(image)
    return self._cache[row]


def _span(found, index, history_length, future_horizon):
  """Returns the item rows of a window's history and future."""
  rows, target = found.rows[found.user[index]], found.target[index]
  end = min(target + future_horizon, found.end[index])
  return rows[max(target - history_length, 0) : target], rows[target:end]


def _info(dataset, found, indices, history_length, future_horizon):
  """Returns what `EvalBatch.info` holds."""
  info = {"user": [], "target": [], "history": [], "future": []}
  wants = []
  for index in indices:
    record = dataset.users[int(found.user[index])]
    target = int(found.target[index])
    history = builders.to_history(record)
    end = min(target + future_horizon, int(found.end[index]))
    info["user"].append(history.user)
    info["target"].append(history.items[target])
    start = max(target - history_length, 0)
    info["history"].append(list(history.items[start:target]))
    info["future"].append(list(history.items[target:end]))
    if "wants" in record:
      wants.append(record["wants"][target])
  return info | ({"wants": np.stack(wants)} if wants else {})


def _shorten(titles, tokenizer, sample=32):
  """Cuts titles to `_TITLE_TOKENS`; returns them and the longest of them."""
  # Not by `truncation`, a state of the tokenizer: another stream's thread may
  # be encoding prompts with it now, and would get them cut.
  tokens = tokenizer(
    titles, add_special_tokens=False, return_offsets_mapping=True
  )
  cut = [offsets[:_TITLE_TOKENS] for offsets in tokens["offset_mapping"]]
  short = [
    title[: offsets[-1][1]] if offsets else title
    for title, offsets in zip(titles, cut, strict=True)
  ]
  order = sorted(range(len(titles)), key=lambda row: -len(cut[row]))
  return short, [short[row] for row in order[:sample]]


def _stack(rows):
  """Stacks windows to a Batch with a leading axis P."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
