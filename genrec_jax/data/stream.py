"""Batches of examples: an endless stream to train on, a list to evaluate on.

Every array of a batch has the same shape in every batch, so that a step is
compiled once: prompts are left-padded to the longest there can be, histories
and futures shorter than N and F are padded and masked.
"""

from collections.abc import Mapping, Sequence
import functools
import types
from typing import Any

import grain
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.examples import Examples, Processor, ReadTitles, stack
from genrec_jax.data.windows import WindowSpec, find_windows

_PREFETCH = 4  # batches
_ROWS = 2**40  # of a stream: without end, for any run


def train_batches(
  dataset: Dataset,
  processor: Processor,
  clip_tokenizer: Any,
  spec: WindowSpec,
  *,
  batch_size: int,
  seed: int,
  workers: int = 0,
  local_rows: Sequence[int] | None = None,
  titles: Mapping[str, ReadTitles] = types.MappingProxyType({}),
  numbered: bool = False,
) -> grain.IterDataset:
  """Returns an endless stream of training batches.

  Its iterator has `get_state()` and `set_state()`. The stream depends on the
  arguments only, not on `workers`, with any number of which a state can be
  restored. Each epoch has its own order. A state is the same whatever
  `local_rows` are, so a run can go on in another number of processes.

  Args:
    dataset: see `dataset.load`.
    processor: of the generator.
    clip_tokenizer: of the reward model; titles are cut to its
      `model_max_length` and padded to the data set's longest.
    spec: of the windows and the prompt.
    batch_size: P, over all processes.
    seed: of the order.
    workers: processes that make batches, which needs absl flags to be parsed;
      0 makes them in a thread.
    local_rows: which of the P windows of each batch to make, those this process
      has devices for; None: all.
    titles: of encoders besides CLIP, see `Examples`.
    numbered: whether batches hold the numbers of their windows.

  Raises:
    UserError: there are no windows.
  """
  windows = find_windows(dataset, "train", spec)
  examples = Examples(
    dataset, windows, processor, clip_tokenizer, titles, numbered
  )
  if not len(examples):
    raise UserError(
      f"{dataset.path} has no training windows: expected at least one; use more"
      " data, a smaller future_horizon when preparing it, or"
      " data.short_histories=pad."
    )
  # Not `repeat()` without a number: what grain takes then overflows in slices.
  epochs = _ROWS // len(examples) + 1
  numbers = grain.MapDataset.range(len(examples)).seed(seed).shuffle()
  numbers = numbers.repeat(epochs).batch(batch_size)  # of windows, [P] each
  rows = np.arange(batch_size) if local_rows is None else np.asarray(local_rows)
  batches = numbers.map(functools.partial(_batch, examples, rows))
  return _Stream(batches, workers)


class _Stream(grain.IterDataset):
  """Reads batches ahead; its state is the number of the next one."""

  def __init__(self, batches: grain.MapDataset, workers: int):
    super().__init__(batches)
    self._workers = workers

  def __iter__(self) -> "_StreamIterator":
    return _StreamIterator(self._parent, self._workers)


class _StreamIterator(grain.DatasetIterator):
  """Counts batches, which grain does for each of its processes apart.

  So a state can be restored with another number of them. Opening starts the
  reading anew, at any batch.
  """

  def __init__(self, batches: grain.MapDataset, workers: int):
    super().__init__()
    self._batches, self._workers = batches, workers
    self._next = 0
    self._opened: Any = None  # grain's own iterator, once there is one

  def __next__(self) -> Batch:
    self._assert_not_closed()
    batch = next(self._open())
    self._next += 1
    return batch

  def get_state(self) -> dict[str, int]:
    return {"next_index": self._next}

  def set_state(self, state: dict[str, int]) -> None:
    self._stop()  # what is read ahead is of the old place
    self._next = state["next_index"]

  def close(self) -> None:
    super().close()
    self._stop()

  def start_prefetch(self) -> None:
    self._open().start_prefetch()

  def _open(self) -> Any:
    """Returns the iterator that reads ahead from the next batch on."""
    if self._opened is None:
      # One thread reads ahead; more processes are what `workers` is for.
      threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
      batches = self._batches[self._next :].to_iter_dataset(threads)
      if self._workers:
        batches = batches.mp_prefetch(
          grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=_PREFETCH
          )
        )
      self._opened = iter(batches)
    return self._opened

  def _stop(self) -> None:
    if self._opened is not None:
      self._opened.close()
      self._opened = None


def _batch(examples: Examples, rows: np.ndarray, numbers: np.ndarray) -> Batch:
  """Returns some rows of the batch of numbered windows [P]."""
  return stack([examples[int(number)] for number in numbers[rows]])
