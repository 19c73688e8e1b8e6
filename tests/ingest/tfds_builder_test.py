import io
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import index, records
from genrec_jax.ingest import tfds_builder
from genrec_jax.ingest.datasets import DATASETS

LENGTHS = (9, 3, 1, 6)


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_work):
  return make_work(tmp_path_factory.mktemp("import"), LENGTHS)


@pytest.fixture(scope="module")
def stored(work, tmp_path_factory):
  path = tmp_path_factory.mktemp("stored") / "data"
  return dataset_lib.load(tfds_builder.store("movielens", work, path))


def _bytes(root):
  root = pathlib.Path(root)
  return {
    path.relative_to(root): path.read_bytes()
    for path in root.rglob("*")
    if path.is_file()
  }


def test_records_are_those_of_the_import(stored, work):
  assert stored.settings == {"dataset": "movielens", **work.settings}
  assert len(stored.items) == 40
  for row, item in enumerate(work.items()):
    record = stored.items[row]
    assert record["id"].decode() == item.id == f"{row:03d}"
    assert record["title"].decode() == item.title
    assert record["image"] == item.image
  image = Image.open(io.BytesIO(stored.items[7]["image"]))
  assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (19, 20))
  assert len(stored.users) == 4
  for row, (history, rows) in enumerate(work.histories()):
    record = stored.users[row]
    found = records.to_history(record)
    assert found.user == f"u{row}"
    assert found.items == history.items
    assert len(found.items) == LENGTHS[row]
    np.testing.assert_array_equal(record["rows"], rows)
    assert [int(item) for item in found.items] == rows.tolist()
    np.testing.assert_array_equal(found.timestamps, history.timestamps)
    assert found.splits == history.splits
    assert "wants" not in record


def test_the_index_is_that_of_the_records(stored, monkeypatch):
  assert stored.index.folder == os.path.join(stored.path, index.FOLDER)
  expected = index.of_records(stored.items, stored.users)
  names = (
    *("history_starts", "item_rows", "splits", "title_starts", "title_bytes"),
  )
  for name in names:
    np.testing.assert_array_equal(
      getattr(stored.index, name), getattr(expected, name)
    )


def test_many_shards_are_one_data_set_and_the_same_bytes(
  work, stored, tmp_path, monkeypatch
):
  monkeypatch.setattr(tfds_builder, "_SHARD_BYTES", 6000)
  monkeypatch.setattr(tfds_builder, "_EVENT_BYTES", 800)
  monkeypatch.setattr(tfds_builder, "_BATCH", 3)
  many = [
    dataset_lib.load(tfds_builder.store("generic", work, tmp_path / name))
    for name in ("a", "b")
  ]
  assert len(list(tmp_path.glob("a/generic/items/*/*.array_record*"))) > 2
  assert len(list(tmp_path.glob("a/generic/users/*/*.array_record*"))) == 3
  assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
  for part in ("items", "users"):
    found, expected = getattr(many[0], part), getattr(stored, part)
    assert len(found) == len(expected)
    for row in range(len(found)):
      np.testing.assert_equal(found[row], expected[row])
  np.testing.assert_array_equal(many[0].index.item_rows, stored.index.item_rows)
  np.testing.assert_array_equal(
    many[0].index.history_starts, stored.index.history_starts
  )


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_every_benchmark_has_a_builder(work, tmp_path, dataset):
  added = []

  def finish(folder):
    assert not (tmp_path / "data").exists()  # it is not there before all is
    (folder / "report.json").write_text("{}")
    added.append(folder)

  path = tfds_builder.store(dataset, work, tmp_path / "data", finish=finish)
  assert dataset_lib.load(path).settings["dataset"] == dataset
  assert (tmp_path / "data" / "report.json").exists()
  tfds_builder.store(dataset, work, tmp_path / "data", finish=finish)
  assert len(added) == 1
  other = next(name for name in DATASETS if name != dataset)
  with pytest.raises(UserError, match=f"dataset: '{dataset}' there"):
    tfds_builder.store(other, work, tmp_path / "data")


def test_a_build_that_failed_goes_on(work, tmp_path):
  def fail(folder):
    raise RuntimeError("no report")

  with pytest.raises(RuntimeError, match="no report"):
    tfds_builder.store("pixelrec", work, tmp_path / "data", finish=fail)
  with pytest.raises(UserError):
    dataset_lib.load(tmp_path / "data")
  (left,) = tmp_path.iterdir()
  file = next(left.glob("*/items/*/*.array_record*"))
  os.utime(file, ns=(1, 1))
  path = tfds_builder.store("pixelrec", work, tmp_path / "data")
  file = next(pathlib.Path(path).glob("*/items/*/*.array_record*"))
  assert file.stat().st_mtime_ns == 1
  assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["rows", "titles", "splits", "starts"])
def test_a_damaged_index_is_refused(work, tmp_path, name):
  path = pathlib.Path(tfds_builder.store("generic", work, tmp_path / "data"))
  file = path / "index" / f"{name}.bin"
  file.write_bytes(file.read_bytes()[:-24])
  with pytest.raises(UserError, match=r"no whole prepared data set[^$]*index"):
    dataset_lib.load(path)
  file.unlink()
  with pytest.raises(UserError, match=f"{name}.bin"):
    dataset_lib.load(path)


def test_building_never_imports_tensorflow(work, tmp_path):
  code = f"""
    import pathlib, sys
    from genrec_jax.data import dataset
    from genrec_jax.ingest import tfds_builder, work_folder
    work = work_folder.Work(pathlib.Path({str(work.folder)!r}), {{}})
    path = tfds_builder.store("amazon", work, {str(tmp_path / "data")!r})
    dataset.load(path).items[0]
    assert not {{"tensorflow", "torch", "apache_beam"}} & set(sys.modules)
  """
  run = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout == ""
