"""Batches of examples, to train on without end and to evaluate on in order.

Every array of a batch has the same shape in every batch, so that a step is
compiled once: prompts are left-padded to the longest there can be, histories
and futures shorter than N and F are padded and masked.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.examples import Examples, describe_users
from genrec_jax.data.windows import WindowSpec, find_windows

_PREFETCH = 4  # batches


class EvalBatch(NamedTuple):
  """A batch of evaluation windows and what is known of its P users."""

  batch: Batch
  # 'user', 'target': P ids; 'history', 'future': P lists of ids; 'titles',
  # 'history_titles': those of the target and of the history; 'wants' [P, 3] at
  # the target, where the data set knows them.
  info: dict[str, Any]


def train_batches(
  dataset: Dataset,
  processor,
  clip_tokenizer,
  spec: WindowSpec,
  *,
  batch_size: int,
  seed: int,
  workers: int = 0,
  local_rows: Sequence[int] | None = None,
) -> grain.IterDataset:
  """Returns an endless stream of training batches.

  Its iterator has `get_state()` and `set_state()`. The stream depends on the
  arguments only, not on `workers`, with any number of which a state can be
  restored. Each epoch has its own order. A state is the same whatever
  `local_rows` are, so a run can go on in another number of processes.

  Args:
    dataset: see `dataset.load`.
    processor: of the generator, see `hf.processor`.
    clip_tokenizer: of the reward model; titles are cut to its
      `model_max_length` and padded to the data set's longest.
    spec: of the windows and the prompt.
    batch_size: P, over all processes.
    seed: of the order.
    workers: processes that make batches, which needs absl flags to be parsed;
      0 makes them in a thread.
    local_rows: which of the P windows of each batch to make, those this process
      has devices for; None: all.

  Raises:
    UserError: there are no windows.
  """
  windows = find_windows(dataset, "train", spec)
  examples = Examples(dataset, windows, processor, clip_tokenizer)
  if not len(examples):
    raise UserError(
      f"{dataset.path} has no training windows: expected at least one; use more"
      " data, a smaller future_horizon when preparing it, or"
      " data.short_histories=pad."
    )
  # Without end, for any run; grain's own number for it overflows in slices.
  stream = grain.MapDataset.range(len(examples)).seed(seed).shuffle()
  stream = stream.repeat(2**40 // len(examples) + 1).batch(batch_size)
  rows = np.arange(batch_size) if local_rows is None else np.asarray(local_rows)
  return _Stream(stream.map(functools.partial(_batch, examples, rows)), workers)


def eval_batches(
  dataset: Dataset,
  processor,
  clip_tokenizer,
  spec: WindowSpec,
  *,
  batch_size: int,
  split: str = "test",
  num_users: int | None = None,
) -> Sequence[EvalBatch]:
  """Returns the windows of an evaluation split, always in the same order.

  Made when indexed; the last batch may have fewer rows than the others.

  Args:
    dataset: see `dataset.load`.
    processor: see `train_batches`, as for those not named here.
    clip_tokenizer: of the reward model.
    spec: as in training.
    batch_size: P.
    split: 'validation' or 'test'.
    num_users: at most so many, spread evenly over the split; None: all.

  Raises:
    UserError: the split has no windows.
  """
  windows = find_windows(dataset, split, spec)
  if not len(windows):
    least = spec.history_length + 2 if spec.whole_only else 3
    raise UserError(
      f"{dataset.path} has no {split} windows: expected users with at least"
      f" {least} items. Prepare a data set with longer histories, or give"
      " data.short_histories=pad."
    )
  examples = Examples(dataset, windows, processor, clip_tokenizer)
  number = min(num_users or len(examples), len(examples))
  chosen = np.arange(number) * len(examples) // number

  def batch_of(indices):
    return EvalBatch(
      _stack([examples[index] for index in indices]),
      describe_users(dataset, windows, indices),
    )

  batches = [
    chosen[start : start + batch_size] for start in range(0, number, batch_size)
  ]
  return grain.MapDataset.source(batches).map(batch_of)


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


def _batch(examples, rows, numbers):
  """Makes some rows of a batch of numbered windows."""
  return _stack([examples[int(number)] for number in numbers[rows]])


def _stack(rows):
  """Stacks windows to a Batch with a leading axis P."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
