"""Benchmarks of the import and of the loader run, and compare equal work."""

import itertools
from types import SimpleNamespace

import pytest

from benchmarks import data, loader
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import stream
from genrec_jax.hf import load
from genrec_jax.ingest import image_store


@pytest.fixture(scope="module")
def opened():
  """Returns the tiny model's processor and CLIP's tokenizer."""
  generator = load.open_generator("tiny_sft", dtype="float32", remat="none")
  _, _, tokenizer = load.load_clip("tiny_clip", dtype="float32")
  return generator.processor, tokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("loader")
  return dataset_lib.load(loader.generate(folder, 40, 30, 32, distinct=4))


def test_stages_of_a_window_are_timed(dataset, opened):
  spent = loader.stages(dataset, *opened)
  # Each is some work, but for a difference of two times, which may be none.
  assert all(spent[name] > 0 for name in spent if name != "the rest")
  assert set(spent) == {
    "read records",
    "decode",
    "resize",
    "prompt",
    "the rest",
    "stack",
  }


def test_rates_are_of_windows(dataset, opened, monkeypatch):
  def ticking(step):
    return (step * tick for tick in itertools.count()).__next__

  clock = SimpleNamespace(perf_counter=ticking(0.25), process_time=ticking(0.5))
  monkeypatch.setattr(loader, "time", clock)
  batches = stream.train_batches(
    dataset, *opened, loader.SPEC, batch_size=loader.BATCH, seed=0
  )
  # Begun at 0, asked at .25, .5 and .75, after which there are three batches,
  # at 1, when the time is up, and at 1.25.
  by_clock, own = loader.rate(batches, warm=2, seconds=1)
  assert by_clock == 3 * loader.BATCH / 1.25
  assert own == 3 * loader.BATCH / 0.5


def test_tables_of_an_import_are_all_timed(tmp_path, monkeypatch):
  # A small shop, in which some users have enough for a 5-core.
  monkeypatch.setattr(data, "_USERS", 300)
  monkeypatch.setattr(data, "_ITEMS", 100)
  data.generate(tmp_path, 3000)
  figures = data.filter_and_split(tmp_path, memory_gb=1, processes=1)
  assert 0 < figures.pop("events") < 3000
  assert figures.pop("GB") > 0
  assert len(figures) == 6
  assert all(figures.values())


def test_pillow_by_itself_stores_images_as_large(tmp_path):
  (tmp_path / "images").mkdir()
  names = data.paint(tmp_path / "images", 2)
  items = [(name, name) for name in names]
  store = image_store.encode_all(
    tmp_path / "images", items, tmp_path / "store", 96, 1
  )
  assert dict(store.sizes()) == dict.fromkeys(names, (128, 96))
  # A codec's bytes follow the pixels: with a third less they were 40 % less.
  stored = sum(map(len, store.values()))
  alone = data.bare(tmp_path / "images", 96, names)
  assert alone == pytest.approx(stored, rel=0.05)
