"""Prompts of a file: lines, splits, examples, and what is wrong with one."""

import io
import json

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import metadata, prompts, records
from genrec_jax.data.eval_batches import eval_batches
from genrec_jax.data.stream import train_batches
from genrec_jax.data.windows import WindowSpec, describe, find_windows
from genrec_jax.testing import BOI, BOS, PAD, TinyProcessor, word_tokenizer

SPEC = WindowSpec(history_length=5, future_horizon=3, instruction="what next")
COLOURS = ("red", "green", "blue", "yellow")


def titles(count):
  sizes = ("small", "large")
  return [
    f"{sizes[i % 2]} {COLOURS[i // 2 % 4]} circle on sand number {i}"
    for i in range(count)
  ]


def text_file(folder, count=40):
  path = folder / "prompts.txt"
  path.write_text("\n\n".join(titles(count)) + "\n")
  return path


def load(path, held_out=1000, seed=0):
  return prompts.load(path, held_out=held_out, seed=seed)


def test_one_prompt_a_line_and_a_tenth_held_out(tmp_path):
  found = load(text_file(tmp_path))
  assert [found.index.title(row) for row in range(40)] == titles(40)
  sizes = {name: len(rows) for name, rows in found.splits.items()}
  assert sizes == {"train": 36, "validation": 1, "test": 3}
  everything = np.concatenate(list(found.splits.values()))
  assert sorted(everything.tolist()) == list(range(40))
  assert not found.has_images
  assert describe(found, SPEC) == "36 training prompts of 40"


def test_what_is_held_out_hangs_on_the_seed_and_never_on_the_order(tmp_path):
  one, same, other = (
    load(text_file(tmp_path), seed=seed).splits["test"] for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, same)
  assert one.tolist() != other.tolist()
  assert len(load(text_file(tmp_path), held_out=2).splits["test"]) == 1


def test_equal_prompts_are_held_out_together(tmp_path):
  path = tmp_path / "twice.txt"
  path.write_text("\n".join(titles(30) * 2))
  found = load(path)
  for rows in found.splits.values():
    names = [found.index.title(int(row)) for row in rows]
    assert len(names) == 2 * len(set(names))


def test_prompts_in_the_world_s_words_are_known_as_such(tmp_path):
  assert not load(text_file(tmp_path)).of_world  # which has no numbers
  path = tmp_path / "words.txt"
  path.write_text("\n".join(title.split(" number")[0] for title in titles(8)))
  assert load(path).of_world


def jsonl(folder, lines):
  path = folder / "prompts.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def test_a_jsonl_may_name_images_and_hold_anything_else(tmp_path):
  Image.new("RGB", (32, 32), (200, 10, 10)).save(tmp_path / "a.png")
  lines = [{"title": title, "tag": i} for i, title in enumerate(titles(8))]
  lines[3]["image"] = "a.png"
  found = load(jsonl(tmp_path, lines))
  assert not found.has_images
  assert found.items[3]["missing"] is False
  assert found.items[4]["missing"] is True
  pixels = np.asarray(records.decode_image(found.items[3]))
  np.testing.assert_array_equal(pixels[0, 0], (200, 10, 10))
  grey = np.asarray(Image.open(io.BytesIO(found.items[4]["image"])))
  assert (grey == prompts.GREY).all()
  windows = find_windows(found, "train", SPEC)
  row = int(found.splits["train"][0])
  assert metadata.describe(found, windows, 0) == {
    "user": f"prompt {row}",
    "item": str(row),
    "history_titles": [],
    **lines[row],
  }
  for line in lines:
    line["image"] = "a.png"
  assert load(jsonl(tmp_path, lines)).has_images


def test_an_example_is_its_title_and_no_image_is_read(tmp_path):
  Image.new("RGB", (32, 32), (200, 10, 10)).save(tmp_path / "a.png")
  lines = [{"title": title} for title in titles(12)]
  for line in lines[::2]:
    line["image"] = "a.png"
  found, processor = load(jsonl(tmp_path, lines)), TinyProcessor()
  stream = train_batches(
    found, processor, word_tokenizer(16), SPEC, batch_size=10, seed=0
  )
  batch = next(iter(stream))
  assert batch.prompt.images.shape == (10, 0, 32, 32, 3)
  assert not batch.history_mask.any()
  assert batch.future.shape[1] == 1
  for ids, mask, seen, image, known in zip(
    batch.prompt.ids,
    batch.prompt.mask,
    batch.title_ids,
    batch.future,
    batch.future_mask,
    strict=True,
  ):
    prompt = ids[mask].tolist()
    assert (ids[~mask] == PAD).all()
    assert prompt[0] == BOS
    assert prompt[-1] == BOI
    title = processor.tokenizer.decode(prompt[1:-1])
    assert processor.tokenizer.decode(seen).startswith(title)
    colour = (200, 10, 10) if known[0] else (prompts.GREY,) * 3
    np.testing.assert_array_equal(image[0, 0, 0], colour)
  assert 0 < batch.future_mask.sum() < 10


def test_held_out_prompts_are_read_as_users_are(tmp_path):
  found = load(text_file(tmp_path))
  (held,) = eval_batches(
    found, TinyProcessor(), word_tokenizer(16), SPEC, batch_size=8
  )
  rows = found.splits["test"]
  assert held.info["user"] == [f"prompt {row}" for row in rows]
  assert held.info["titles"] == [found.index.title(int(r)) for r in rows]
  assert held.info["history"] == [[], [], []]
  assert "wants" not in held.info


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("few.txt", "a\nb\na\n", "holds 2 different prompts: expected at least 4"),
    ("a.jsonl", "nothing\n", "line 1: no JSON"),
    ("a.jsonl", "[1]\n", "line 1: no object"),
    ("a.jsonl", '\n{"prompt": "a"}\n', 'line 2: no "title"'),
    ("a.jsonl", '{"title": "a", "image": "b.png"}\n', "line 1: no image /"),
  ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError) as error:
    load(tmp_path / name)
  assert message in str(error.value)


def test_a_file_that_is_absent_or_no_text(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    load(tmp_path / "none.txt")
  (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00\x81")
  with pytest.raises(UserError, match="expected a file of UTF-8"):
    load(tmp_path / "image.txt")


def test_a_fingerprint_is_of_prompts_and_images(tmp_path):
  Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
  lines = [{"title": title, "image": "a.png"} for title in titles(4)]
  seen = {prompts.fingerprint(jsonl(tmp_path, lines))}
  seen.add(prompts.fingerprint(jsonl(tmp_path, lines[::-1])))
  Image.effect_noise((32, 32), 90).save(tmp_path / "a.png")
  seen.add(prompts.fingerprint(jsonl(tmp_path, lines)))
  assert len(seen) == 3
