"""What limits a model: measures whose values are known, and the whole table."""

import numpy as np
import pytest

from benchmarks import abilities, allowed
from genrec_jax.data import world
from genrec_jax.hf.load import load_generator


@pytest.fixture(scope="module")
def loaded():
  return load_generator("tiny_base", dtype="float32")


def test_entropy_of_rows():
  rows = np.array([[0, 1], [0, 1], [0, 2], [3, 1]])
  expected = 0.5 * np.log(2) + 2 * 0.25 * np.log(4)
  assert abilities.entropy(rows) == pytest.approx(expected)


def test_what_the_world_allows_is_what_is_known_of_it():
  users = allowed.simulate(3000)
  # What an ideal sample has, computed of other users.
  assert allowed.sampled_match(users, 1) == pytest.approx(0.727, abs=0.01)
  # So sharp a posterior is the best guess of these very users.
  likeliest = np.stack([p.argmax(-1) for p in allowed.posterior(users)], -1)
  best = np.mean(likeliest == users.wants)
  assert allowed.sampled_match(users, 50) == pytest.approx(best, abs=0.002)
  # Of 2,880 items, the history leaves as many nats open.
  assert 4.9 < allowed.next_item_entropy(users) < 5.4


def test_wants_in_words_are_in_the_order_of_titles():
  attrs = np.array([1, 2, 3, 4, 0])
  words = abilities.wanted_words(attrs[world.WANTED])
  assert words == "yellow checked square"
  assert words in world.title(attrs)


def test_parts_of_prompts_are_of_one_size(loaded):
  rows = [[1, 2, 3]] * (abilities.BATCH + 1)
  prompt = abilities.prompts(loaded, rows, abilities.without_images(len(rows)))
  sizes = [len(part.ids) for part in abilities.parts(prompt)]
  assert sizes == [abilities.BATCH] * 2


def test_histories_hold_what_they_say(loaded):
  found = abilities.histories(loaded, allowed.simulate(3))
  image = loaded.model.image_id
  places = {k: int((p.ids == image).sum(1).max()) for k, p in found.items()}
  whole = allowed.SHOWN * loaded.model.image_tokens
  assert places == {"images and titles": whole, "titles": 0, "images": whole}
  words = loaded.processor.tokenizer.decode
  titles = words(found["titles"].ids[0], skip_special_tokens=True)
  images = words(found["images"].ids[0], skip_special_tokens=True)
  assert titles.count(" on ") == allowed.SHOWN
  assert " on " not in images


def test_the_base_reads_and_generates(loaded):
  users = allowed.simulate(64)
  values = {
    row.what: row.value
    for row in [
      *abilities.reading(loaded),
      *abilities.generating(loaded, users),
    ]
  }
  assert values["attributes in the model's words"] > 0.95
  assert values["attributes by a linear probe"] > 0.95
  assert values["attributes of a title, guidance 1"] > 0.9


def test_a_table_has_a_column_for_each_model():
  rows = [
    abilities.Row("reading", "words", 0.5, 1),
    abilities.Row("coding", "nats", 4, np.nan),
  ]
  lines = abilities.table({"a": rows, "b": rows}).splitlines()
  assert lines[0] == "| part | | a | b | a perfect model |"
  assert lines[2] == "| reading | words | 0.500 | 0.500 | 1.000 |"
  assert lines[3] == "| coding | nats | 4.000 | 4.000 |  |"
