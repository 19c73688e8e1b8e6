import collections
import math
import os
import subprocess
import sys
import textwrap
import time

import grain
import jax
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from tests.data.tiny_data import (
  assert_equal,
  take,
  train_windows,
  windows_in,
)


def test_shapes_and_types_are_those_of_the_batch(stream):
  first, second = take(iter(stream()), 2)
  assert isinstance(first, Batch)
  tokens = first.prompt.ids.shape[1]
  expected = {
    "ids": (first.prompt.ids, (8, tokens), np.int32),
    "mask": (first.prompt.mask, (8, tokens), np.bool_),
    "images": (first.prompt.images, (8, 5, 32, 32, 3), np.uint8),
    "history": (first.history, (8, 5, 32, 32, 3), np.uint8),
    "history_mask": (first.history_mask, (8, 5), np.bool_),
    "future": (first.future, (8, 3, 32, 32, 3), np.uint8),
    "future_mask": (first.future_mask, (8, 3), np.bool_),
    "title_ids": (first.title_ids, (8, 6), np.int32),
    "title_mask": (first.title_mask, (8, 6), np.bool_),
  }
  for name, (array, shape, dtype) in expected.items():
    assert type(array) is np.ndarray, name
    assert (array.shape, array.dtype) == (shape, dtype), name
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(a.shape, b.shape), first, second
  )


def test_an_epoch_is_every_training_window_once(stream, dataset):
  expected = train_windows(dataset)
  assert len(expected) == 30 * 7
  iterator = iter(stream(batch_size=7))
  epochs = [windows_in(take(iterator, 30)) for _ in range(2)]
  count = collections.Counter(expected)
  assert [collections.Counter(epoch) for epoch in epochs] == [count, count]
  assert epochs[0] != epochs[1] != expected


def test_the_seed_decides_the_order(stream):
  a, b, c = (take(iter(stream(seed=s)), 4) for s in (0, 0, 1))
  assert_equal(a, b)
  assert any(
    np.any(x.prompt.ids != y.prompt.ids) for x, y in zip(a, c, strict=True)
  )


@pytest.mark.parametrize("consumed", [0, 1, 11, 26, 27, 60])
def test_a_restored_iterator_gives_exactly_the_rest(stream, consumed):
  whole = take(iter(stream()), consumed + 5)
  iterator = iter(stream())
  take(iterator, consumed)
  state = iterator.get_state()
  restored = iter(stream())
  take(restored, 3)
  restored.set_state(state)
  assert_equal(take(restored, 5), whole[consumed:])


def test_an_epoch_has_every_window_once(stream, dataset):
  expected = collections.Counter(train_windows(dataset))
  # One window a batch, so that epochs end where batches do.
  iterator = iter(stream(batch_size=1))
  epochs = [windows_in(take(iterator, expected.total())) for _ in range(2)]
  assert [collections.Counter(epoch) for epoch in epochs] == [expected] * 2
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_see_every_window_once_an_epoch(stream, dataset, shards):
  expected = collections.Counter(train_windows(dataset))
  # As many epochs as end where a batch does.
  epochs = math.lcm(expected.total(), shards) // expected.total()
  batches = epochs * expected.total() // shards
  seen = collections.Counter()
  for shard in range(shards):
    iterator = iter(stream(batch_size=shards, local_rows=[shard]))
    seen.update(windows_in(take(iterator, batches)))
  assert seen == collections.Counter(
    {window: epochs * count for window, count in expected.items()}
  )


def test_the_rows_of_all_processes_make_the_batch_of_one(stream):
  whole = take(iter(stream(batch_size=4)), 3)
  parts = [
    take(iter(stream(batch_size=4, local_rows=rows)), 3)
    for rows in ([0, 2], [1, 3])
  ]
  for batch, even, odd in zip(whole, *parts, strict=True):
    jax.tree.map(
      lambda all_rows, *rows: np.testing.assert_array_equal(
        np.stack(rows, 1).reshape(all_rows.shape), all_rows
      ),
      batch,
      even,
      odd,
    )


def test_dropping_short_histories_leaves_no_padding(stream):
  batches = take(iter(stream(short_histories="drop", batch_size=30)), 2)
  # Train parts of 8 items, windows of 5 + 3: one a user.
  assert len(set(windows_in(batches[:1]))) == 30
  for batch in batches:
    assert batch.history_mask.all()
    assert batch.future_mask.all()


def test_no_windows_is_an_error(stream):
  with pytest.raises(UserError, match="has no training windows"):
    stream(short_histories="drop", future_horizon=100)


def test_one_thread_makes_twenty_batches_a_second(stream):
  iterator = iter(stream(batch_size=16))
  take(iterator, 200)  # every image is decoded
  start = time.process_time()  # the wall clock of a busy machine says little
  take(iterator, 100)
  assert time.process_time() - start < 5


def test_worker_processes_change_nothing(dataset, tmp_path):
  """In a subprocess: workers are spawned and need a main module of a file."""
  script = tmp_path / "script.py"
  script.write_text(
    textwrap.dedent(f"""
      import sys
      sys.path.insert(0, {os.getcwd()!r})
      from absl import flags
      import jax
      import numpy as np
      from genrec_jax.data import dataset as dataset_lib
      from genrec_jax.data import stream
      from genrec_jax import testing
      from tests.data import tiny_data

      def main():
        flags.FLAGS.mark_as_parsed()
        dataset = dataset_lib.load({dataset.path!r})

        def opened(workers):
          return iter(stream.train_batches(
            dataset, testing.TinyProcessor(), testing.word_tokenizer(12),
            tiny_data.SPEC, batch_size=4, seed=0, workers=workers,
          ))

        def check(iterator, expected):
          for batch in expected:
            jax.tree.map(np.testing.assert_array_equal, next(iterator), batch)

        alone = opened(0)
        batches = [next(alone) for _ in range(15)]  # an epoch is 52.5
        state = None
        for workers, start in ((2, 0), (1, 5), (0, 10)):
          iterator = opened(workers)
          if state:
            iterator.set_state(state)
          check(iterator, batches[start : start + 5])
          state = iterator.get_state()
          iterator.close()
        assert "tensorflow" not in sys.modules

      if __name__ == "__main__":
        main()
    """)
  )
  run = subprocess.run(
    [sys.executable, script], capture_output=True, text=True, check=False
  )
  assert run.returncode == 0, run.stderr


def test_the_stream_is_a_grain_dataset(stream):
  assert isinstance(stream(), grain.IterDataset)
