import filecmp
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import ClassVar

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import builders, histories, world

SMALL = {
  "num_users": 30,
  "held_out": 10,
  "num_events": 12,
  "future_horizon": 2,
}


def _files(root):
  root = pathlib.Path(root)
  return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())


def test_items_are_renders_with_titles(dataset):
  assert len(dataset.items) == world.NUM_ITEMS
  record = dataset.items[1234]
  assert record["id"] == b"1234"
  assert record["title"].decode() == world.title(record["attributes"])
  np.testing.assert_array_equal(record["attributes"], world.attributes(1234))
  image = np.asarray(Image.open(io.BytesIO(record["image"])))
  np.testing.assert_array_equal(image, world.render(record["attributes"]))


def test_users_are_the_simulated_ones(dataset):
  events = world.simulate(40, 12, seed=0)
  assert len(dataset.users) == 40
  for row in range(40):
    record = dataset.users[row]
    history = builders.to_history(record)
    assert history.user == f"u{row:06d}"
    assert history.train_end == (8 if row < 30 else 0)
    assert (history.validation_start, history.test_start) == (8, 10)
    assert [int(item) for item in history.items] == record["rows"].tolist()
    # Ties are ordered by item id, and what was wanted moves along.
    order = np.lexsort((events.items[row], events.timestamps[row]))
    np.testing.assert_array_equal(record["rows"], events.items[row][order])
    np.testing.assert_array_equal(record["wants"], events.wants[row][order])
    np.testing.assert_array_equal(
      record["timestamps"], events.timestamps[row][order]
    )


def test_rebuilding_gives_the_same_bytes(dataset, tmp_path):
  again = builders.synthetic(tmp_path / "again", **SMALL)
  files = _files(again)
  assert files == _files(dataset.path)
  assert len(files) == 9
  _, different, errors = filecmp.cmpfiles(
    again, dataset.path, files, shallow=False
  )
  assert (different, errors) == ([], [])
  other = builders.synthetic(tmp_path / "other", **SMALL, seed=1)
  assert filecmp.cmpfiles(other, dataset.path, files, shallow=False)[1]


def test_a_whole_data_set_is_not_built_again(dataset):
  before = [
    (pathlib.Path(dataset.path, f)).stat().st_mtime_ns
    for f in _files(dataset.path)
  ]
  assert builders.synthetic(dataset.path, **SMALL) == dataset.path
  after = [
    (pathlib.Path(dataset.path, f)).stat().st_mtime_ns
    for f in _files(dataset.path)
  ]
  assert before == after


def test_other_settings_are_refused_with_the_differences(dataset):
  with pytest.raises(UserError) as error:
    builders.synthetic(dataset.path, **{**SMALL, "held_out": 11}, seed=3)
  message = str(error.value)
  assert "held_out: 10 there, 11 asked for" in message
  assert "seed: 0 there, 3 asked for" in message
  assert "num_users" not in message


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  "damage",
  [
    lambda root: shutil.rmtree(root / "synthetic/users"),
    lambda root: (root / "synthetic/items/1.0.0/dataset_info.json").unlink(),
    lambda root: next(root.glob("*/users/*/*.array_record*")).unlink(),
    lambda root: _cut(next(root.glob("*/items/*/*.array_record*"))),
    lambda root: next(root.glob("*/items/*/*.array_record*")).write_bytes(b""),
  ],
)
def test_a_damaged_data_set_is_refused(dataset, tmp_path, damage):
  root = tmp_path / "copy"
  shutil.copytree(dataset.path, root)
  damage(root)
  with pytest.raises(UserError, match="no whole prepared data set"):
    builders.load(root)
  with pytest.raises(UserError, match="no whole prepared data set"):
    builders.synthetic(root, **SMALL)


def test_what_is_no_data_set_is_refused_and_kept(tmp_path):
  (tmp_path / "thesis.txt").write_text("keep me")
  with pytest.raises(UserError, match="0 data sets named 'items'"):
    builders.synthetic(tmp_path, **SMALL)
  assert (tmp_path / "thesis.txt").read_text() == "keep me"
  with pytest.raises(UserError, match="Cannot build a data set"):
    builders.synthetic(tmp_path / "thesis.txt" / "data", **SMALL)


def test_a_killed_build_leaves_no_data_set(tmp_path):
  code = f"""
    import os
    from genrec_jax.data import builders
    build = builders._build
    def slow(builder):
      build(builder)
      print("built", flush=True)
      os.kill(os.getpid(), {int(signal.SIGKILL)})
    builders._build = slow
    builders.synthetic({os.fspath(tmp_path / "data")!r}, **{SMALL!r})
  """
  run = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == -signal.SIGKILL, run.stderr
  assert run.stdout == "built\n"
  assert not (tmp_path / "data").exists()
  with pytest.raises(UserError):
    builders.load(tmp_path / "data")
  builders.synthetic(tmp_path / "data", **SMALL)
  assert len(builders.load(tmp_path / "data").users) == 40


def test_a_faster_process_wins(dataset, tmp_path, monkeypatch):
  build, target = builders._build, tmp_path / "data"

  def slow(builder):
    build(builder)
    if not target.exists():
      shutil.copytree(dataset.path, target)

  monkeypatch.setattr(builders, "_build", slow)
  assert builders.synthetic(target, **SMALL) == str(target)
  assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_no_path_opens_the_synthetic_data_set(dataset, tmp_path):
  assert builders.open_or_build(dataset.path, cache=tmp_path).path == (
    dataset.path
  )
  assert not list(tmp_path.iterdir())
  for _ in range(2):
    opened = builders.open_or_build("", cache=tmp_path, **SMALL)
    assert opened.settings == dataset.settings
  assert len(list(tmp_path.iterdir())) == 1
  other = builders.open_or_build("", cache=tmp_path, **SMALL, seed=1)
  assert other.path != opened.path


def test_building_and_reading_never_import_tensorflow(dataset, tmp_path):
  code = f"""
    import sys
    from genrec_jax.data import builders, pipeline
    path = builders.synthetic({os.fspath(tmp_path / "data")!r}, **{SMALL!r})
    dataset = builders.load(path)
    dataset.index
    dataset.items[0]
    assert not {{"tensorflow", "torch"}} & set(sys.modules)
  """
  run = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout == ""  # TFDS would tell of a download


class Photos(builders.Prepared):
  """Three items of other image kinds and sizes, without a known truth."""

  settings: ClassVar = {}

  def item_ids(self):
    return ["007", "a/b", "ü"]

  def item(self, item_id):
    image = Image.new("L", (20 + len(item_id), 9), 128)
    data = io.BytesIO()
    image.save(data, "JPEG")
    return {"title": f"photo {item_id}", "image": data.getvalue()}

  def histories(self):
    return histories.build([("u", "ü", 3), ("u", "007", 1), ("u", "a/b", 2)])


def test_any_builder_of_the_base_class_can_be_prepared(tmp_path):
  loaded = builders.load(builders.prepare(Photos, tmp_path / "photos"))
  assert [r["id"].decode() for r in loaded.items] == ["007", "a/b", "ü"]
  image = Image.open(io.BytesIO(loaded.items[1]["image"]))
  assert (image.mode, image.size) == ("L", (23, 9))
  (user,) = loaded.users
  assert builders.to_history(user).items == ("007", "a/b", "ü")
  assert user["rows"].tolist() == [0, 1, 2]
  assert "wants" not in user


def test_building_is_quick(tmp_path):
  start = time.process_time()
  builders.synthetic(tmp_path / "large", num_users=2000)
  assert time.process_time() - start < 20
