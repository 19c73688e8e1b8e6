import concurrent.futures
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

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import builders, world

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
  with pytest.raises(
    UserError, match=r"no (whole )?prepared data set"
  ) as error:
    builders.load(root)
  assert len(str(error.value).splitlines()) == 1
  assert "elete" not in str(error.value)
  with pytest.raises(UserError, match="no whole prepared data set"):
    builders.synthetic(root, **SMALL)


def advice(path):
  """Returns what is said of a path that is no data set, in one line."""
  with pytest.raises(UserError) as error:
    builders.load(path)
  with pytest.raises(UserError) as same:
    builders.fingerprint(path)
  assert str(error.value) == str(same.value)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_path_that_is_no_data_set_is_put_right(dataset, tmp_path):
  assert "there is no such folder; give --config." in advice(tmp_path / "none")
  (tmp_path / "raw").mkdir()
  (tmp_path / "raw/ratings.csv").write_text("userId,movieId")
  assert "is a file" in advice(tmp_path / "raw/ratings.csv")
  assert "tools/prepare_data.py --raw=" in advice(tmp_path / "raw")
  root = pathlib.Path(dataset.path)
  for near in (root / "synthetic", root / "synthetic/items/1.0.0", root.parent):
    assert advice(near).endswith(f"--config.data.path={root}")


def test_a_fingerprint_is_of_contents_not_of_places(dataset, tmp_path):
  copy, other = tmp_path / "copy", tmp_path / "other"
  shutil.copytree(dataset.path, copy)
  known = builders.fingerprint(dataset.path)
  assert builders.fingerprint(copy) == known
  (copy / "import_report.json").write_text("{}")  # read by nobody
  assert builders.fingerprint(copy) == known
  builders.synthetic(other, **SMALL | {"seed": 1})
  assert builders.fingerprint(other) != known
  # One byte of one user; the file's size stays.
  users = next(copy.glob("*/users/*/*.array_record*"))
  text = bytearray(users.read_bytes())
  text[len(text) // 2] ^= 1
  users.write_bytes(text)
  assert builders.fingerprint(copy) != known
  assert builders.fingerprint("") == f"synthetic{world.VERSION}"


def test_a_fingerprint_reads_pieces_of_large_files(
  dataset, tmp_path, monkeypatch
):
  monkeypatch.setattr(builders, "_PIECE_BYTES", 64)
  monkeypatch.setattr(builders, "_PIECES", 8)
  copy = tmp_path / "copy"
  shutil.copytree(dataset.path, copy)
  known = builders.fingerprint(copy)
  items = next(copy.glob("*/items/*/*.array_record*"))
  whole = items.read_bytes()

  def changed(place):
    text = bytearray(whole)
    text[place] ^= 1
    items.write_bytes(text)
    return builders.fingerprint(copy) != known

  assert changed(0)
  assert changed(-1)
  assert changed((len(whole) - 64) // 7)
  assert not changed((len(whole) - 64) // 7 - 1)  # as it says


def test_what_is_no_data_set_is_refused_and_kept(tmp_path):
  (tmp_path / "thesis.txt").write_text("keep me")
  with pytest.raises(UserError, match="0 data sets named 'items'"):
    builders.synthetic(tmp_path, **SMALL)
  assert (tmp_path / "thesis.txt").read_text() == "keep me"
  with pytest.raises(UserError, match="Cannot build a data set"):
    builders.synthetic(tmp_path / "thesis.txt" / "data", **SMALL)


def test_a_killed_build_is_no_data_set_and_can_go_on(dataset, tmp_path):
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
  # What is whole is kept, what is not is made again.
  (left,) = tmp_path.iterdir()
  with pytest.raises(UserError):
    builders.load(left)
  (left / "synthetic/users/incomplete.x_1.0.0").mkdir(parents=True)
  items = next(left.glob("synthetic/items/*/*.array_record*"))
  before = items.stat().st_mtime_ns, items.name
  builders.synthetic(tmp_path / "data", **SMALL)
  assert [path.name for path in tmp_path.iterdir()] == ["data"]
  items = next(tmp_path.glob("data/synthetic/items/*/*.array_record*"))
  assert (items.stat().st_mtime_ns, items.name) == before
  files = _files(dataset.path)
  assert _files(tmp_path / "data") == files
  same, *_ = filecmp.cmpfiles(
    tmp_path / "data", dataset.path, files, shallow=False
  )
  assert same == files


def test_what_a_build_of_other_settings_left_is_not_used(dataset, tmp_path):
  left = tmp_path / ".data.incomplete"
  shutil.copytree(dataset.path, left)
  (left / "incomplete.json").write_text('{"seed": 5}')
  builders.synthetic(tmp_path / "data", **SMALL, seed=1)
  users = builders.load(tmp_path / "data").users
  assert users[0]["rows"].tolist() != dataset.users[0]["rows"].tolist()


def test_builds_of_one_data_set_wait_for_each_other(tmp_path):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    paths = [
      pool.submit(builders.synthetic, tmp_path / "data", **SMALL)
      for _ in range(2)
    ]
    assert [path.result() for path in paths] == [str(tmp_path / "data")] * 2
  assert [path.name for path in tmp_path.iterdir()] == ["data"]


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


def test_building_is_quick(tmp_path):
  start = time.process_time()
  builders.synthetic(tmp_path / "large", num_users=2000)
  assert time.process_time() - start < 20
