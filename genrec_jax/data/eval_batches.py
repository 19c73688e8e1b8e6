"""Batches of an evaluation split: a list, always in the same order."""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from genrec_jax.data import records
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.examples import Examples, Processor, stack
from genrec_jax.data.windows import Windows, WindowSpec, find_windows


class EvalBatch(NamedTuple):
  """A batch of evaluation windows, and ids and titles of its P users."""

  batch: Batch
  # 'user', 'target': P ids; 'history', 'future': P lists of ids; 'titles',
  # 'history_titles': those of the target and of the history; 'target_row': P
  # rows in `items`; 'history_rows', 'seen_rows': P arrays of them, of what is
  # shown and of all before the target; 'wants' [P, 3] at the target, where the
  # data set knows them.
  info: dict[str, Any]


def eval_batches(
  dataset: Dataset,
  processor: Processor,
  clip_tokenizer: Any,
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
    processor: of the generator.
    clip_tokenizer: of the reward model, as in training.
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
  # A split of evaluation has one window a user.
  chosen = evenly(len(examples), num_users)  # [users]
  users = len(chosen)

  def batch_of(numbers: list[int]) -> EvalBatch:
    return EvalBatch(
      stack([examples[number] for number in numbers]),
      _window_info(dataset, windows, numbers),
    )

  numbers = [
    chosen[start : start + batch_size].tolist()
    for start in range(0, users, batch_size)
  ]
  return grain.MapDataset.source(numbers).map(batch_of)


def evenly(total: int, number: int | None) -> np.ndarray:
  """Returns at most `number` of 0 to total - 1, spread evenly; None: all."""
  number = min(number or total, total)
  return np.arange(number) * total // number


def _window_info(
  dataset: Dataset, windows: Windows, numbers: Sequence[int]
) -> dict[str, Any]:
  """Returns ids and titles of some windows; see `EvalBatch.info`."""
  info: dict[str, Any] = collections.defaultdict(list)
  wants = []
  for number in numbers:
    user, start, target, end = windows[number]
    record = dataset.users[user]
    history = records.to_history(record)
    info["user"].append(history.user)
    info["target"].append(history.items[target])
    info["history"].append(list(history.items[start:target]))
    info["future"].append(list(history.items[target:end]))
    history_rows, future_rows = windows.item_rows(number)
    info["titles"].append(dataset.index.title(future_rows[0]))
    info["history_titles"].append(
      [dataset.index.title(row) for row in history_rows]
    )
    info["target_row"].append(int(future_rows[0]))
    info["history_rows"].append(history_rows)
    info["seen_rows"].append(dataset.index.history(user)[:target])
    if "wants" in record:  # of the synthetic world
      wants.append(record["wants"][target])  # [3]
  return dict(info) | ({"wants": np.stack(wants)} if wants else {})
