import concurrent.futures
import filecmp
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import prepare, synthetic
from tests.data.small_world import SMALL, files_of


def test_a_whole_data_set_is_not_built_again(dataset):
  before = [
    (pathlib.Path(dataset.path, f)).stat().st_mtime_ns
    for f in files_of(dataset.path)
  ]
  assert synthetic.build(dataset.path, **SMALL) == dataset.path
  after = [
    (pathlib.Path(dataset.path, f)).stat().st_mtime_ns
    for f in files_of(dataset.path)
  ]
  assert before == after


def test_other_settings_are_refused_with_the_differences(dataset):
  with pytest.raises(UserError) as error:
    synthetic.build(dataset.path, **{**SMALL, "held_out": 11}, seed=3)
  message = str(error.value)
  assert "held_out: 10 there, 11 asked for" in message
  assert "seed: 0 there, 3 asked for" in message
  assert "num_users" not in message


def test_what_is_no_data_set_is_refused_and_kept(tmp_path):
  (tmp_path / "thesis.txt").write_text("keep me")
  with pytest.raises(UserError, match="0 data sets named 'items'"):
    synthetic.build(tmp_path, **SMALL)
  assert (tmp_path / "thesis.txt").read_text() == "keep me"
  with pytest.raises(UserError, match="Cannot build a data set"):
    synthetic.build(tmp_path / "thesis.txt" / "data", **SMALL)


def test_a_killed_build_is_no_data_set_and_can_go_on(dataset, tmp_path):
  code = f"""
    import os
    from genrec_jax.data import prepare, synthetic
    build = prepare.write_part
    def slow(builder):
      build(builder)
      print("built", flush=True)
      os.kill(os.getpid(), {int(signal.SIGKILL)})
    prepare.write_part = slow
    synthetic.build({os.fspath(tmp_path / "data")!r}, **{SMALL!r})
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
    dataset_lib.load(tmp_path / "data")
  # What is whole is kept, what is not is made again.
  (left,) = tmp_path.iterdir()
  with pytest.raises(UserError):
    dataset_lib.load(left)
  (left / "synthetic/users/incomplete.x_1.0.0").mkdir(parents=True)
  items = next(left.glob("synthetic/items/*/*.array_record*"))
  before = items.stat().st_mtime_ns, items.name
  synthetic.build(tmp_path / "data", **SMALL)
  assert [path.name for path in tmp_path.iterdir()] == ["data"]
  items = next(tmp_path.glob("data/synthetic/items/*/*.array_record*"))
  assert (items.stat().st_mtime_ns, items.name) == before
  files = files_of(dataset.path)
  assert files_of(tmp_path / "data") == files
  same, *_ = filecmp.cmpfiles(
    tmp_path / "data", dataset.path, files, shallow=False
  )
  assert same == files


def test_what_a_build_of_other_settings_left_is_not_used(dataset, tmp_path):
  left = tmp_path / ".data.incomplete"
  shutil.copytree(dataset.path, left)
  (left / "incomplete.json").write_text('{"seed": 5}')
  synthetic.build(tmp_path / "data", **SMALL, seed=1)
  users = dataset_lib.load(tmp_path / "data").users
  assert users[0]["rows"].tolist() != dataset.users[0]["rows"].tolist()


def test_builds_of_one_data_set_wait_for_each_other(tmp_path):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    paths = [
      pool.submit(synthetic.build, tmp_path / "data", **SMALL) for _ in range(2)
    ]
    assert [path.result() for path in paths] == [str(tmp_path / "data")] * 2
  assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_faster_process_wins(dataset, tmp_path, monkeypatch):
  build, target = prepare.write_part, tmp_path / "data"

  def slow(builder):
    build(builder)
    if not target.exists():
      shutil.copytree(dataset.path, target)

  monkeypatch.setattr(prepare, "write_part", slow)
  assert synthetic.build(target, **SMALL) == str(target)
  assert [path.name for path in tmp_path.iterdir()] == ["data"]
