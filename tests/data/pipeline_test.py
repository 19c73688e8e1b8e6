import collections
import functools
import os
import subprocess
import sys
import textwrap
import time

import grain
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from genrec_jax.data import builders, histories, pipeline, world

BOI, IMAGE, IMAGE_TOKENS, PAD = 2, 4, 4, 1
INSTRUCTION = "what comes next"
LENGTHS = {
  "history_length": 5,
  "future_horizon": 3,
  "instruction": INSTRUCTION,
}


@functools.cache
def _known():
  renders = world.render(world.attributes(np.arange(world.NUM_ITEMS)))
  return {image.tobytes(): item for item, image in enumerate(renders)}


def _item(image):
  return _known()[image.tobytes()]


def _fake_dataset(users, num_items=40):
  """Makes a data set in memory of users (rows, split points)."""
  items = [{"id": b"%d" % i, "title": b"red"} for i in range(num_items)]
  records = [
    {
      "id": b"u%d" % user,
      "items": [b"%d" % row for row in rows],
      "rows": np.asarray(rows),
      "timestamps": np.arange(len(rows)),
      "train_end": ends[0],
      "validation_start": ends[1],
      "test_start": ends[2],
    }
    for user, (rows, ends) in enumerate(users)
  ]
  return builders.Dataset("memory", items, records, {})


@pytest.fixture
def stream(dataset, processor, clip_tokenizer):
  def make(**kwargs):
    return pipeline.train_batches(
      dataset,
      processor,
      clip_tokenizer,
      **{"batch_size": 8, "seed": 0, **LENGTHS, **kwargs},
    )

  return make


@pytest.fixture
def evaluation(dataset, processor, clip_tokenizer):
  def make(**kwargs):
    return pipeline.eval_batches(
      dataset,
      processor,
      clip_tokenizer,
      **{"batch_size": 4, **LENGTHS, **kwargs},
    )

  return make


def _take(iterator, number):
  return [next(iterator) for _ in range(number)]


def _windows_in(batches):
  """Returns (history, future) item tuples of every row of the batches."""
  found = []
  for batch in batches:
    for row in range(len(batch.history_mask)):
      found.append(
        tuple(
          tuple(_item(i) for i, real in zip(*pair, strict=True) if real)
          for pair in (
            (batch.prompt.images[row], batch.history_mask[row]),
            (batch.future[row], batch.future_mask[row]),
          )
        )
      )
  return found


def _expected(dataset, history_length=5, future_horizon=3):
  """Returns the (history, future) item tuples of all training windows."""
  expected = []
  for record in dataset.users:
    rows = record["rows"].tolist()[: record["train_end"]]
    for t in range(1, len(rows)):
      expected.append(
        (
          tuple(rows[max(t - history_length, 0) : t]),
          tuple(rows[t : t + future_horizon]),
        )
      )
  return expected


def _equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_shapes_and_types_are_those_of_the_batch(stream):
  first, second = _take(iter(stream()), 2)
  assert isinstance(first, Batch)
  tokens = first.prompt.ids.shape[1]
  expected = {
    "ids": (first.prompt.ids, (8, tokens), np.int32),
    "mask": (first.prompt.mask, (8, tokens), np.bool_),
    "images": (first.prompt.images, (8, 5, 32, 32, 3), np.uint8),
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
  expected = _expected(dataset)
  assert len(expected) == 30 * 7
  iterator = iter(stream(batch_size=7))
  epochs = [_windows_in(_take(iterator, 30)) for _ in range(2)]
  count = collections.Counter(expected)
  assert [collections.Counter(epoch) for epoch in epochs] == [count, count]
  assert epochs[0] != epochs[1] != expected


def test_prompts_titles_and_masks_agree(stream, processor, clip_tokenizer):
  for batch in _take(iter(stream()), 6):
    for row, (history, future) in enumerate(_windows_in([batch])):
      titles = [world.title(world.attributes(item)) for item in history]
      ids = processor.prompt_ids(titles, INSTRUCTION)
      mask = batch.prompt.mask[row]
      padding = len(mask) - len(ids)
      np.testing.assert_array_equal(mask, np.arange(len(mask)) >= padding)
      np.testing.assert_array_equal(batch.prompt.ids[row][mask], ids)
      assert np.all(batch.prompt.ids[row][~mask] == PAD)
      assert batch.prompt.ids[row][-1] == BOI
      images = np.sum(batch.prompt.ids[row] == IMAGE)
      assert images == IMAGE_TOKENS * len(history)
      # Real items come first, padding is black.
      for array, real in (
        (batch.prompt.images, batch.history_mask),
        (batch.future, batch.future_mask),
      ):
        assert not np.any(np.diff(real[row].astype(int)) > 0)
        assert not np.any(array[row][~real[row]])
      words = clip_tokenizer(world.title(world.attributes(future[0])))
      np.testing.assert_array_equal(
        batch.title_ids[row][batch.title_mask[row]], words["input_ids"]
      )
      assert batch.title_mask[row].sum() == 6


def test_the_longest_prompt_just_fits(stream):
  for length in (1, 3):
    batches = _take(iter(stream(history_length=length)), 20)
    filled = np.concatenate([batch.prompt.mask for batch in batches])
    assert filled.sum(axis=1).max() == filled.shape[1]


def test_short_histories_are_padded_and_masked(stream):
  batches = _take(iter(stream(batch_size=30)), 7)
  lengths = np.concatenate([batch.history_mask.sum(1) for batch in batches])
  # Train parts of 8 items: targets 1..7 have 1, 2, 3, 4, 5, 5, 5 before them.
  np.testing.assert_array_equal(np.bincount(lengths), [0, 30, 30, 30, 30, 90])
  futures = np.concatenate([batch.future_mask.sum(1) for batch in batches])
  np.testing.assert_array_equal(np.bincount(futures), [0, 30, 30, 150])


def test_the_seed_decides_the_order(stream):
  a, b, c = (_take(iter(stream(seed=s)), 4) for s in (0, 0, 1))
  _equal(a, b)
  assert any(
    np.any(x.prompt.ids != y.prompt.ids) for x, y in zip(a, c, strict=True)
  )


@pytest.mark.parametrize("consumed", [0, 1, 11, 26, 27, 60])
def test_a_restored_iterator_gives_exactly_the_rest(stream, consumed):
  whole = _take(iter(stream()), consumed + 5)
  iterator = iter(stream())
  _take(iterator, consumed)
  state = iterator.get_state()
  restored = iter(stream())
  _take(restored, 3)
  restored.set_state(state)
  _equal(_take(restored, 5), whole[consumed:])


def test_shards_share_the_windows(stream, dataset):
  seen = collections.Counter()
  for shard in range(3):
    batches = _take(
      iter(stream(shard_index=shard, shard_count=3, batch_size=10)), 7
    )
    seen.update(_windows_in(batches))
  assert seen == collections.Counter(_expected(dataset))


def test_more_shards_than_windows_is_an_error(stream):
  with pytest.raises(UserError, match="leave none for shard 300"):
    stream(shard_index=300, shard_count=301)


@pytest.mark.parametrize(("split", "target"), [("validation", 8), ("test", 10)])
def test_evaluation_is_of_held_out_users(evaluation, dataset, split, target):
  batches = evaluation(split=split)
  assert [len(batch.history_mask) for batch, _ in batches] == [4, 4, 2]
  rows = iter(range(30, 40))
  for batch, info in batches:
    found = _windows_in([batch])
    for i, (history, future) in enumerate(found):
      record = dataset.users[next(rows)]
      items = record["rows"].tolist()
      assert history == tuple(items[target - 5 : target])
      assert future == tuple(items[target : target + 2])  # not the next part
      assert info["user"][i] == record["id"].decode()
      assert info["target"][i] == f"{items[target]:04d}"
      assert info["history"][i] == [f"{item:04d}" for item in history]
      assert info["future"][i] == [f"{item:04d}" for item in future]
      np.testing.assert_array_equal(info["wants"][i], record["wants"][target])
  assert next(rows, None) is None


def test_evaluation_can_be_read_again_and_in_part(evaluation):
  batches = evaluation()
  _equal([b for b, _ in batches], [b for b, _ in evaluation()])
  some = evaluation(num_users=5)
  users = [user for _, info in some for user in info["user"]]
  assert users == [f"u{i:06d}" for i in (30, 32, 34, 36, 38)]
  assert len([u for _, i in evaluation(num_users=99) for u in i["user"]]) == 10


def test_training_and_evaluation_prompts_are_equally_long(stream, evaluation):
  assert (
    next(iter(stream())).prompt.ids.shape[1]
    == evaluation()[0].batch.prompt.ids.shape[1]
  )


def test_without_held_out_users_everybody_is_evaluated():
  points = histories.split_points(6)
  dataset = _fake_dataset([(range(6), points), (range(2), (2, 2, 2))])
  found = pipeline.windows(dataset, "test")
  assert found.user.tolist() == [0]  # two items are too few
  assert found.target.tolist() == [5]
  assert pipeline.windows(dataset, "train").user.tolist() == [0, 0, 0, 1]


def test_no_windows_to_evaluate_is_an_error(processor, clip_tokenizer):
  dataset = _fake_dataset([(range(2), (2, 2, 2))])
  with pytest.raises(UserError, match=r"no test windows.*at least 3 items"):
    pipeline.eval_batches(
      dataset, processor, clip_tokenizer, batch_size=1, **LENGTHS
    )


_USERS = st.lists(
  st.tuples(st.integers(1, 14), st.booleans()), min_size=1, max_size=6
)


@settings(deadline=None)
@given(_USERS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_nothing_later_reaches_a_train_window(
  lengths, horizon, history_length, future_horizon
):
  users = [
    # Own items for each user, so that a leak can be told by the item.
    (
      np.arange(length) + 20 * user,
      histories.split_points(length, horizon, held_out),
    )
    for user, (length, held_out) in enumerate(lengths)
  ]
  dataset = _fake_dataset(users, num_items=20 * len(users))
  items = {}
  for split in histories.SPLITS:
    found = pipeline.windows(dataset, split)
    items[split] = [
      pipeline._span(found, index, history_length, future_horizon)
      for index in range(len(found.user))
    ]
  trained = {
    row for pair in items["train"] for part in pair for row in part.tolist()
  }
  judged = {
    row
    for split in ("validation", "test")
    for _, future in items[split]
    for row in future.tolist()
  }
  held_out = {
    row
    for (rows, _), (_, held) in zip(users, lengths, strict=True)
    for row in rows.tolist()
    if held
  }
  assert not trained & judged
  assert not trained & held_out
  if held_out:
    assert judged <= held_out
  validation = [set(f.tolist()) for _, f in items["validation"]]
  for _, future in items["test"]:
    assert all(not set(future.tolist()) & other for other in validation)


def test_a_broken_image_is_named(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items = [{**item, "image": item["image"][:60]} for item in items]
  broken = builders.Dataset("broken", items, dataset.users, {})
  batches = pipeline.eval_batches(
    broken, processor, clip_tokenizer, batch_size=1, **LENGTHS
  )
  with pytest.raises(UserError, match=r"image of item '\d{4}' cannot"):
    batches[0]


def test_page_long_titles_are_cut(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items[17] = {**items[17], "title": b"red circle " * 500}
  long = builders.Dataset("long", items, dataset.users, {})
  batches = pipeline.eval_batches(
    long,
    processor,
    clip_tokenizer,
    batch_size=1,
    **LENGTHS,
  )
  batch, _ = batches[0]
  assert batch.title_ids.shape[1] == 12  # the CLIP tokenizer's longest
  assert not batch.title_mask[:, 6:].any()
  ids = batch.prompt.ids
  assert ids.shape[1] == 1 + 5 * (64 + IMAGE_TOKENS + 3) + 3 + 1


def test_one_thread_makes_twenty_batches_a_second(stream):
  iterator = iter(stream(batch_size=16))
  _take(iterator, 200)  # every picture is decoded
  start = time.process_time()  # the wall clock of a busy machine says little
  _take(iterator, 100)
  assert time.process_time() - start < 5


def test_worker_processes_change_nothing(dataset, tmp_path):
  """In a subprocess: workers are spawned and need a main module of a file."""
  script = tmp_path / "script.py"
  script.write_text(
    textwrap.dedent(f"""
      import sys
      sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
      from absl import flags
      import numpy as np
      import conftest
      from genrec_jax.data import builders, pipeline

      def main():
        flags.FLAGS.mark_as_parsed()
        dataset = builders.load({dataset.path!r})
        ids = []
        for workers in (0, 1):
          iterator = iter(pipeline.train_batches(
            dataset, conftest.FakeProcessor(), conftest._tokenizer(12),
            batch_size=4, seed=0, workers=workers, **{LENGTHS!r},
          ))
          ids.append([next(iterator).prompt.ids for _ in range(3)])
        np.testing.assert_array_equal(*ids)
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
