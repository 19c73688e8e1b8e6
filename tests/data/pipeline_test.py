import collections
import dataclasses
import functools
import io
import math
import os
import pickle
import subprocess
import sys
import textwrap
import time

import grain
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import (
  histories,
  images,
  index,
  pipeline,
  world,
)
from genrec_jax.hf.load import ASSETS
from genrec_jax.hf.processor import Processor

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
  return dataset_lib.Dataset("memory", items, records, {})


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


def _located(dataset, split, history_length=3, future_horizon=2, **kwargs):
  """Returns user, target and end of all windows."""
  found = pipeline.windows(
    dataset,
    split,
    history_length=history_length,
    future_horizon=future_horizon,
    **kwargs,
  )
  return [found.locate(number) for number in range(len(found))]


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


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (40, 40)])
def test_posters_are_padded_where_read_and_cropped_where_compared(
  clip_tokenizer, size
):
  dataset = _fake_dataset([(range(8), histories.split_points(8))], num_items=8)
  corner = tuple(side // 2 - 20 for side in size)
  for row, item in enumerate(dataset.items):
    image = Image.new("RGB", size, (0, 0, 255))
    colour = (200, 30 * row, 90)
    image.paste(colour, (*corner, corner[0] + 40, corner[1] + 40))
    item["image"] = images.encode(_png(image), 384)
  # A real one: what the models of a run are given.
  processor = Processor.from_pretrained(ASSETS / "tiny_sft")
  batch = next(
    iter(
      pipeline.train_batches(
        dataset, processor, clip_tokenizer, batch_size=5, seed=0, **LENGTHS
      )
    )
  )
  assert batch.history.shape == batch.prompt.images.shape

  def rows_of(pixels):
    """Returns the item by its colour; nothing else may be in the image."""
    middle = pixels[2:-2, 2:-2].reshape(-1, 3).astype(int)
    assert np.ptp(middle, axis=0).max() <= 6  # but for what JPEG changes
    return round(middle[:, 1].mean() / 30)

  for row, real in enumerate(batch.history_mask):
    cropped = [rows_of(pixels) for pixels in batch.history[row][real]]
    ahead = [rows_of(p) for p in batch.future[row][batch.future_mask[row]]]
    assert ahead[0] == cropped[-1] + 1  # users of this set go from 0 to 7
    for item, pixels in zip(cropped, batch.prompt.images[row], strict=False):
      grey = (pixels == 127).all(-1).sum() / 32**2
      assert grey == pytest.approx(0 if size[0] == size[1] else 1 / 3, abs=0.03)
      assert rows_of(pixels[10:22, 10:22]) == item


def _png(image):
  data = io.BytesIO()
  image.save(data, "PNG")
  return data


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
        (batch.history, batch.history_mask),
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


def test_an_epoch_has_every_window_once(stream, dataset):
  expected = collections.Counter(_expected(dataset))
  # One window a batch, so that epochs end where batches do.
  iterator = iter(stream(batch_size=1))
  epochs = [_windows_in(_take(iterator, expected.total())) for _ in range(2)]
  assert [collections.Counter(epoch) for epoch in epochs] == [expected] * 2
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_see_every_window_once_an_epoch(stream, dataset, shards):
  expected = collections.Counter(_expected(dataset))
  # As many epochs as end where a batch does.
  epochs = math.lcm(expected.total(), shards) // expected.total()
  batches = epochs * expected.total() // shards
  seen = collections.Counter()
  for shard in range(shards):
    iterator = iter(stream(batch_size=shards, rows=[shard]))
    seen.update(_windows_in(_take(iterator, batches)))
  assert seen == collections.Counter(
    {window: epochs * count for window, count in expected.items()}
  )


def test_the_rows_of_all_processes_make_the_batch_of_one(stream):
  whole = _take(iter(stream(batch_size=4)), 3)
  parts = [
    _take(iter(stream(batch_size=4, rows=rows)), 3) for rows in ([0, 2], [1, 3])
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


def test_short_histories_are_padded_or_left_out_and_counted():
  # Train parts of 8, 4 and 2 items; horizon 1.
  dataset = _fake_dataset(
    [
      (np.arange(length), histories.split_points(length))
      for length in (10, 6, 4)
    ]
  )
  sizes = {"history_length": 4, "future_horizon": 2}

  def count(split, short_histories):
    return pipeline.count(
      pipeline.windows(dataset, split, short_histories=short_histories, **sizes)
    )

  # A whole window is targets 4..6 of the first user: 4 items, target, next.
  assert _located(dataset, "train", 4, 2, short_histories="drop") == [
    (0, target, target + 2) for target in (4, 5, 6)
  ]
  assert count("train", "pad") == (7 + 3 + 1, 4 + 3 + 1, 3, 2, 0)
  assert count("train", "drop") == (3, 0, 1, 2, 2)
  # There the future is what the part has, one item, in either case.
  assert _located(dataset, "test", 4, 2) == [(0, 9, 10), (1, 5, 6), (2, 3, 4)]
  assert _located(dataset, "test", 4, 2, short_histories="drop") == [
    (0, 9, 10),
    (1, 5, 6),
  ]
  assert count("test", "pad") == (3, 1, 3, 1, 0)
  assert count("test", "drop") == (2, 0, 2, 1, 1)
  line = pipeline.describe(dataset, short_histories="drop", **sizes)
  assert line.startswith("3 training windows of 1 users; 2 users too short")
  assert line.endswith("left out")
  with pytest.raises(UserError, match=r"short_histories='cut'.*pad, drop"):
    count("test", "cut")
  with pytest.raises(UserError, match=r"data\.history_length=0"):
    _located(dataset, "test", 0)


def test_dropping_short_histories_leaves_no_padding(stream):
  batches = _take(iter(stream(short_histories="drop", batch_size=30)), 2)
  # Train parts of 8 items, windows of 5 + 3: one a user.
  assert len(set(_windows_in(batches[:1]))) == 30
  for batch in batches:
    assert batch.history_mask.all()
    assert batch.future_mask.all()


def test_histories_of_twenty_items(stream):
  batch = next(iter(stream(history_length=20)))
  assert batch.prompt.images.shape[1] == 20
  with pytest.raises(UserError, match=r"history_length=100.*at most 1000"):
    stream(history_length=100)


def test_an_index_in_files_serves_as_one_from_records(
  dataset, processor, clip_tokenizer, stream, tmp_path
):
  known = dataset.index
  lengths = np.diff(known.starts)
  half = int(known.starts[20])
  titles = [known.title(row) for row in range(len(dataset.items))]
  index.write(
    tmp_path,
    [
      (lengths[:20], known.splits[:20], known.rows[:half]),
      (lengths[20:], known.splits[20:], known.rows[half:]),
    ],
    [titles[:1000], [], titles[1000:]],
  )
  read = index.read(tmp_path)
  for name in ("starts", "rows", "splits", "title_starts", "titles"):
    np.testing.assert_array_equal(getattr(read, name), getattr(known, name))
  assert read.title(1234) == titles[1234]
  again = pickle.loads(pickle.dumps(read))
  assert again.folder == str(tmp_path)
  assert len(pickle.dumps(read)) < 500  # the name of the folder

  class Unread:
    """Users whose records nobody may read."""

  mapped = dataset_lib.Dataset("mapped", dataset.items, Unread(), {})
  mapped.__dict__["index"] = read
  stream_of = functools.partial(
    pipeline.train_batches,
    processor=processor,
    clip_tokenizer=clip_tokenizer,
    batch_size=8,
    seed=0,
    **LENGTHS,
  )
  _equal(_take(iter(stream_of(mapped)), 3), _take(iter(stream()), 3))

  (tmp_path / "rows.bin").write_bytes(known.rows[:-1].tobytes())
  with pytest.raises(ValueError, match="cut"):
    index.read(tmp_path)


def test_starting_reads_no_record_and_few_titles(
  dataset, processor, clip_tokenizer, monkeypatch
):
  monkeypatch.setattr(pipeline, "_TITLES_READ", 1)
  read = []

  class Items:
    """Counts the records that are read; one title is long, but one word."""

    def __len__(self):
      return len(dataset.items)

    def __getitem__(self, row):
      read.append(row)
      return dataset.items[row]

  titles = [dataset.items[row]["title"].decode() for row in range(2880)]
  titles[17] = 500 * "x"
  lengths = [len(title) for title in titles]
  known = dataclasses.replace(
    dataset.index,
    title_starts=np.concatenate([[0], np.cumsum(lengths)]),
    titles=np.frombuffer("".join(titles).encode(), np.uint8),
  )
  counted = dataset_lib.Dataset("counted", Items(), dataset.users, {})
  counted.__dict__["index"] = known
  batches = pipeline.eval_batches(
    counted, processor, clip_tokenizer, batch_size=2, **LENGTHS
  )
  assert not read
  batch, info = batches[0]
  # Others are cut to its one token, so that no item is lost.
  assert batch.prompt.ids.shape[1] == 1 + 5 * (1 + IMAGE_TOKENS + 3) + 3 + 1
  assert batch.title_ids.shape[1] == 1
  assert batch.history_mask.all()
  expected = [int(item) for item in info["history"][0]]
  assert list(_windows_in([batch])[0][0]) == expected
  assert len(read) == 2 * (5 + 2)


def test_no_windows_is_an_error(stream):
  with pytest.raises(UserError, match="has no training windows"):
    stream(short_histories="drop", future_horizon=100)


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
  assert _located(dataset, "test") == [(0, 5, 6)]  # two items are too few
  assert _located(dataset, "validation") == [(0, 4, 5)]
  assert _located(dataset, "train") == [
    (0, 1, 3),
    (0, 2, 4),
    (0, 3, 4),
    (1, 1, 2),
  ]


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
    found = pipeline.windows(
      dataset,
      split,
      history_length=history_length,
      future_horizon=future_horizon,
    )
    items[split] = [found.rows(number) for number in range(len(found))]
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


_EVENTS = st.lists(
  # Few times, so that most are tied.
  st.lists(st.integers(0, 3), min_size=1, max_size=12),
  min_size=1,
  max_size=4,
)


@settings(deadline=None)
@given(
  _EVENTS, st.randoms(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4)
)
def test_every_event_is_a_target_or_history_as_defined(
  times, random, horizon, history_length, future_horizon
):
  events = [
    # Ids order ties; 10 comes before 9, as texts do.
    (f"u{user}", str(item), time)
    for user, some in enumerate(times)
    for item, time in enumerate(some)
  ]
  random.shuffle(events)
  found = histories.build(events, future_horizon=horizon)
  dataset = _fake_dataset(
    [
      (
        [int(item) for item in history.items],
        (history.train_end, history.validation_start, history.test_start),
      )
      for history in found
    ]
  )
  seen = {split: [{} for _ in found] for split in histories.SPLITS}
  for split, users in seen.items():
    windows = pipeline.windows(
      dataset,
      split,
      history_length=history_length,
      future_horizon=future_horizon,
    )
    for number in range(len(windows)):
      user, target, _ = windows.locate(number)
      assert target not in users[user]  # one window for each
      users[user][target] = [part.tolist() for part in windows.rows(number)]
  for user, history in enumerate(found):
    pairs = list(zip(history.timestamps.tolist(), history.items, strict=True))
    assert pairs == sorted(pairs)
    assert sorted(pairs) == sorted(
      (time, item) for name, item, time in events if name == history.user
    )
    items, length = [int(item) for item in history.items], len(history.items)
    ends = {
      "train": (history.train_end, range(1, history.train_end)),
      "validation": (history.test_start, [history.validation_start]),
      "test": (length, [history.test_start]),
    }
    for split, (end, targets) in ends.items():
      targets = [t for t in targets if 0 < t < end]
      assert list(seen[split][user]) == targets
      for target, (before, after) in seen[split][user].items():
        assert before == items[max(target - history_length, 0) : target]
        assert after == items[target : min(target + future_horizon, end)]
    trained = {
      item
      for window in seen["train"][user].values()
      for part in window
      for item in part
    }
    if history.train_end > 1:  # else there is nothing to go by
      assert trained == set(items[: history.train_end])
    for split in ("validation", "test"):
      for _, after in seen[split][user].values():
        assert not trained & set(after)
    # What is no train target is the first item or held out, nothing else.
    held_out = range(history.validation_start, length)
    assert {0, *seen["train"][user], *held_out} == set(range(length))


def test_a_broken_image_is_named(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items = [{**item, "image": item["image"][:60]} for item in items]
  broken = dataset_lib.Dataset("broken", items, dataset.users, {})
  batches = pipeline.eval_batches(
    broken, processor, clip_tokenizer, batch_size=1, **LENGTHS
  )
  with pytest.raises(UserError, match=r"image of item '\d{4}' cannot"):
    batches[0]


def test_page_long_titles_are_cut(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items[17] = {**items[17], "title": b"red circle " * 500}
  long = dataset_lib.Dataset("long", items, dataset.users, {})
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
      import jax
      import numpy as np
      import conftest
      from genrec_jax.data import dataset as dataset_lib
      from genrec_jax.data import pipeline

      def main():
        flags.FLAGS.mark_as_parsed()
        dataset = dataset_lib.load({dataset.path!r})

        def stream(workers):
          return iter(pipeline.train_batches(
            dataset, conftest.FakeProcessor(), conftest._tokenizer(12),
            batch_size=4, seed=0, workers=workers, **{LENGTHS!r},
          ))

        def check(iterator, expected):
          for batch in expected:
            jax.tree.map(np.testing.assert_array_equal, next(iterator), batch)

        alone = stream(0)
        batches = [next(alone) for _ in range(15)]  # an epoch is 52.5
        state = None
        for workers, start in ((2, 0), (1, 5), (0, 10)):
          iterator = stream(workers)
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
