import dataclasses
import io
import json
import re

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import histories, images, world
from genrec_jax.data import stream as stream_lib
from genrec_jax.data import titles as titles_lib
from genrec_jax.data import windows as windows_lib
from genrec_jax.data.eval_batches import eval_batches
from genrec_jax.data.examples import Examples, stack
from genrec_jax.hf.emu3_processor import Emu3Processor
from genrec_jax.hf.janus_processor import JanusProcessor
from genrec_jax.hf.locate import ASSETS
from genrec_jax.testing import (
  BOI,
  IMAGE,
  IMAGE_TOKENS,
  INSTRUCTION,
  PAD,
  TinyProcessor,
)
from tests.data.tiny_data import SPEC, fake_dataset, take, windows_in


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (40, 40)])
def test_posters_are_padded_where_read_and_cropped_where_compared(
  clip_tokenizer, size
):
  dataset = fake_dataset([(range(8), histories.split_points(8))], num_items=8)
  corner = tuple(side // 2 - 20 for side in size)
  for row, item in enumerate(dataset.items):
    image = Image.new("RGB", size, (0, 0, 255))
    colour = (200, 30 * row, 90)
    image.paste(colour, (*corner, corner[0] + 40, corner[1] + 40))
    item["image"] = images.encode(_png(image), 384)
  # A real one: what the models of a run are given.
  processor = JanusProcessor.from_pretrained(ASSETS / "tiny_sft")
  batch = next(
    iter(
      stream_lib.train_batches(
        dataset, processor, clip_tokenizer, SPEC, batch_size=5, seed=0
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


def test_prompts_titles_and_masks_agree(stream, processor, clip_tokenizer):
  for batch in take(iter(stream()), 6):
    for row, (history, future) in enumerate(windows_in([batch])):
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
    batches = take(iter(stream(history_length=length)), 20)
    filled = np.concatenate([batch.prompt.mask for batch in batches])
    assert filled.sum(axis=1).max() == filled.shape[1]


def test_short_histories_are_padded_and_masked(stream):
  batches = take(iter(stream(batch_size=30)), 7)
  lengths = np.concatenate([batch.history_mask.sum(1) for batch in batches])
  # Train parts of 8 items: targets 1..7 have 1, 2, 3, 4, 5, 5, 5 before them.
  np.testing.assert_array_equal(np.bincount(lengths), [0, 30, 30, 30, 30, 90])
  futures = np.concatenate([batch.future_mask.sum(1) for batch in batches])
  np.testing.assert_array_equal(np.bincount(futures), [0, 30, 30, 150])


def test_histories_of_twenty_items(stream):
  batch = next(iter(stream(history_length=20)))
  assert batch.prompt.images.shape[1] == 20


def test_squares_are_one_array_as_read_and_as_compared(
  dataset, processor, clip_tokenizer
):
  windows = windows_lib.find_windows(dataset, "train", SPEC)
  made = Examples(dataset, windows, processor, clip_tokenizer)
  first, second = made[0], made[9]
  batch = stack([first, second])
  assert batch.history is batch.prompt.images
  np.testing.assert_array_equal(
    batch.history, np.stack([first.history, second.history])
  )
  # Where one example has two, as of a poster, so has the batch.
  poster = second.replace(history=255 - second.history)
  mixed = stack([first, poster])
  np.testing.assert_array_equal(mixed.history[1], poster.history)
  np.testing.assert_array_equal(mixed.prompt.images, batch.prompt.images)


# Squares of one size, and images that are cropped for what compares them.
@pytest.mark.parametrize("read_size", [32, 8])
def test_each_image_of_a_window_is_asked_for_once(
  dataset, clip_tokenizer, read_size
):
  class Reader(TinyProcessor):
    def pixels(self, image):
      return super().pixels(image)[:read_size, :read_size]

  Reader.read_size = read_size
  processor = Reader()
  windows = windows_lib.find_windows(dataset, "train", SPEC)
  made = Examples(dataset, windows, processor, clip_tokenizer)
  asked, cache = [], made._pixels

  def counted(row):
    asked.append(row)
    return cache(row)

  made._pixels = counted
  example = made[0]
  assert (example.history is example.prompt.images) == (read_size == 32)
  history, future = windows.item_rows(0)
  assert asked == [*history, *future]


def test_an_empty_history_has_its_sizes(dataset, clip_tokenizer):
  class Small(TinyProcessor):
    read_size = 8

  windows = windows_lib.find_windows(dataset, "train", SPEC)
  made = Examples(dataset, windows, Small(), clip_tokenizer)
  read, cropped = made._images([], 5)
  assert read.shape == (5, 8, 8, 3)
  assert cropped.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("title_tokens", [0, 8])
@pytest.mark.parametrize("family", ["janus", "emu3"])
def test_a_context_that_is_too_long_says_what_each_part_takes(
  dataset, processor, clip_tokenizer, family, title_tokens
):
  fits, image, answer = 1000, IMAGE_TOKENS + 2, IMAGE_TOKENS
  if family == "emu3":
    folder = ASSETS / "tiny_emu3"
    config = json.loads((folder / "config.json").read_text())
    processor = Emu3Processor.from_pretrained(folder, config | {"read_size": 8})
    # A begin of five tokens, "1*1" among them, one code, three ends; four rows
    # of four codes and an end.
    fits, image, answer = 1024, 5 + 1 + 3, 4 * (4 + 1)
  with pytest.raises(UserError) as caught:
    stream_lib.train_batches(
      dataset,
      processor,
      clip_tokenizer,
      dataclasses.replace(SPEC, history_length=100, title_tokens=title_tokens),
      batch_size=1,
      seed=0,
    )
  parts = (
    r"data.history_length=100 makes prompts and answers of up to (\d+) tokens"
    r" \((\d+) images of (\d+), (\d+) of text with titles of up to 6, (\d+) of"
    r" the image that is generated(?:, (\d+) of its title)?\): expected at most"
    r" (\d+), which this model was made for; give a smaller one,( a smaller"
    r" model.title_tokens,)? shorter titles in the data set, or, where the"
    r" model leaves a choice, a smaller model.read_size or model.image_size"
  )
  found = re.fullmatch(parts, str(caught.value))
  assert found, caught.value
  assert (found[8] is not None) == (found[6] is not None) == (title_tokens > 0)
  total, count, each, text, codes, words, most = (
    int(number or 0) for number in found.groups()[:7]
  )
  assert (count, each, codes, words) == (100, image, answer, title_tokens)
  assert total == count * each + text + codes + words
  assert most == fits
  # A title, and what stands around an item, a hundred times.
  assert text > 100 * 6


def test_a_prompt_that_is_too_long_loses_its_oldest_item(
  dataset, clip_tokenizer
):
  class Merging(TinyProcessor):
    """Two titles next to each other take more tokens than each alone."""

    def prompt_ids(self, titles, instruction):
      ids = super().prompt_ids(titles, instruction)
      return [*ids[:1], *[7] * (len(set(titles)) > 4), *ids[1:]]

  batch, info = eval_batches(
    dataset, Merging(), clip_tokenizer, SPEC, batch_size=10
  )[0]
  ((history, _), *_) = windows_in([batch])
  assert history == tuple(int(item) for item in info["history"][0][1:])
  np.testing.assert_array_equal(batch.history_mask.sum(1), 4)
  assert np.all((batch.prompt.ids == IMAGE).sum(1) == 4 * IMAGE_TOKENS)


def test_starting_reads_no_record_and_few_titles(
  dataset, processor, clip_tokenizer, monkeypatch
):
  monkeypatch.setattr(titles_lib, "_CANDIDATES", 1)
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
    title_bytes=np.frombuffer("".join(titles).encode(), np.uint8),
  )
  counted = dataset_lib.Dataset("counted", Items(), dataset.users, {})
  counted.__dict__["index"] = known
  batches = eval_batches(counted, processor, clip_tokenizer, SPEC, batch_size=2)
  assert not read
  batch, info = batches[0]
  # Others are cut to its one token, so that no item is lost.
  assert batch.prompt.ids.shape[1] == 1 + 5 * (1 + IMAGE_TOKENS + 3) + 3 + 1
  assert batch.title_ids.shape[1] == 1
  assert batch.history_mask.all()
  expected = [int(item) for item in info["history"][0]]
  assert list(windows_in([batch])[0][0]) == expected
  assert len(read) == 2 * (5 + 2)


def test_a_broken_image_is_named(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items = [{**item, "image": item["image"][:60]} for item in items]
  broken = dataset_lib.Dataset("broken", items, dataset.users, {})
  batches = eval_batches(broken, processor, clip_tokenizer, SPEC, batch_size=1)
  with pytest.raises(UserError, match=r"image of item '\d{4}' cannot"):
    batches[0]


def test_page_long_titles_are_cut(dataset, processor, clip_tokenizer):
  items = [dataset.items[row] for row in range(len(dataset.items))]
  items[17] = {**items[17], "title": b"red circle " * 500}
  long = dataset_lib.Dataset("long", items, dataset.users, {})
  batches = eval_batches(
    long,
    processor,
    clip_tokenizer,
    SPEC,
    batch_size=1,
  )
  batch, _ = batches[0]
  assert batch.title_ids.shape[1] == 12  # the CLIP tokenizer's longest
  assert not batch.title_mask[:, 6:].any()
  ids = batch.prompt.ids
  assert ids.shape[1] == 1 + 5 * (64 + IMAGE_TOKENS + 3) + 3 + 1


def test_another_thread_s_call_of_the_tokenizer_changes_no_example(
  stream, clip_tokenizer, monkeypatch
):
  (expected,) = take(iter(stream()), 1)
  batches, set_state = stream(), clip_tokenizer.set_truncation_and_padding

  def interrupted(*args, **options):
    set_state(*args, **options)
    # As of who encodes written titles, between a call's two halves.
    clip_tokenizer.backend_tokenizer.enable_padding(length=12)

  monkeypatch.setattr(clip_tokenizer, "set_truncation_and_padding", interrupted)
  (batch,) = take(iter(batches), 1)
  np.testing.assert_array_equal(batch.title_ids, expected.title_ids)


@pytest.mark.parametrize("title_tokens", [2, 8])
def test_titles_are_what_answers_begin_with(stream, processor, title_tokens):
  plain = take(iter(stream()), 3)
  titled = take(iter(stream(title_tokens=title_tokens)), 3)
  for one, other in zip(plain, titled, strict=True):
    assert one.title is None
    # The answer begins the image: the prompt ends before.
    np.testing.assert_array_equal(one.prompt.ids[:, :-1], other.prompt.ids)
    np.testing.assert_array_equal(one.prompt.mask[:, :-1], other.prompt.mask)
    assert other.title.tokens.shape == (8, 1, title_tokens)
    for row, (_, future) in enumerate(windows_in([one])):
      title = world.title(world.attributes(future[0]))
      words = processor.title_ids(title)
      assert len(words) == 6
      expected = [*words, BOI, 0, 0][:title_tokens]
      np.testing.assert_array_equal(other.title.tokens[row, 0], expected)
      np.testing.assert_array_equal(
        other.title.words[row, 0], np.arange(title_tokens) < 6
      )
  # A title of W tokens is cut off: its end is not to be learned.
  assert other.title.cut.all() == (title_tokens == 2)
