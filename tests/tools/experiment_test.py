"""The order of the commands, and what is skipped, left out and refused."""

import json
from pathlib import Path
import re
import shlex
import threading
import time

import pytest

from genrec_jax.runtime import workdir_lock
from tests.tools.process import ROOT, run_tool

# Runs the tool with commands that only write their last file; those on a data
# set in a folder 'fail' fail.
STUB = """
import os, runpy, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
LAST = {
  "main.py": ("--workdir=", "summary.json"),
  "compare.py": ("--out=", "compare.json"),
  "make": ("--out=", "key.json"),
  "simulate": ("--out=", "truth.json"),
  "analyse": ("--out=", "analysis.json"),
}
def run(command, check):
  words = [Path(command[1]).name, *command[2:]]
  if any(word.endswith("/fail") for word in words):
    return SimpleNamespace(returncode=3)
  key = words[1] if words[0] == "study.py" else words[0]
  start, file = LAST[key]
  [folder] = [w.removeprefix(start) for w in words if w.startswith(start)]
  Path(folder).mkdir(parents=True, exist_ok=True)
  Path(folder, file).touch()
  return SimpleNamespace(returncode=0)
subprocess.run = run
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def experiment(tmp_path):
  """Returns a function that runs the tool with stubs, into tmp_path/out.

  The data sets A, B and fail have folders in tmp_path.
  """
  for name in ("A", "B", "fail"):
    (tmp_path / name).mkdir()

  def run(data, *args):
    folders = re.sub(r"=(A|B|fail)\b", rf"={tmp_path}/\1", data)
    out = f"--out={tmp_path / 'out'}"
    return run_tool("experiment.py", out, folders, *args, code=STUB)

  return run


def lines(printed, word):
  return [line for line in printed.splitlines() if word in line]


def test_commands_are_those_of_the_contracts(tmp_path):
  status, printed, errors = run_tool(
    "experiment.py",
    f"--out={tmp_path}/o",
    "--data=m=DATA",
    "--variant=debug",
    "--model=M",
    "--clip=C",
    "--judges=J,K",
    "--seeds=2",
    "--temperatures=0.5,2",
    "--flags=--config.data.workers=2",
    "--rl_flags=--config.train.steps=9",
    "--print_commands",
  )
  assert status == 0, errors
  sft, rl, second, evaluate, compare, study = (
    shlex.split(line)[1:] for line in printed.splitlines()
  )
  o = f"{tmp_path}/o/m"
  shared = [
    "--config.data.path=DATA",
    "--config.data.workers=2",
    "--config.clip.checkpoint=C",
    "--config.eval.judges=('J', 'K')",
  ]
  assert sft == [
    f"{ROOT}/main.py",
    f"--config={ROOT}/configs/sft.py:debug",
    f"--workdir={o}/sft",
    "--config.model.checkpoint=M",
    *shared,
  ]
  assert rl == [
    f"{ROOT}/main.py",
    f"--config={ROOT}/configs/rl.py:debug",
    f"--workdir={o}/rl_seed0",
    f"--config.model.checkpoint={o}/sft",
    *shared,
    "--config.seed=0",
    "--config.train.steps=9",
  ]
  assert "--config.seed=1" in second
  assert evaluate[-2:] == [
    "--config.eval.temperatures=(0.5,2,)",
    "--config.eval.keep_images=60",
  ]
  assert f"--config.model.checkpoint={o}/rl_seed0" in evaluate
  runs = [f"{o}/rl_seed0", f"{o}/rl_seed1"]
  assert compare[1:] == [
    *runs * 2,
    "--rows=sft,sft,rl,rl",
    f"--out={o}/compare",
  ]
  assert study[1:3] == ["make", f"--workdir={o}/evaluate"]
  assert not Path(f"{tmp_path}/o").exists()


def test_what_is_done_is_skipped_and_its_time_kept(experiment, tmp_path):
  data = "--data=a=A,b=B"
  status, printed, errors = experiment(data, "--raters=5")
  assert status == 0, errors
  assert len(lines(printed, ": took ")) == 14
  assert "all of it took 0.0 minutes" in printed
  (tmp_path / "out" / "b" / "compare" / "compare.json").unlink()
  status, printed, errors = experiment(data, "--raters=5")
  assert status == 0, errors
  assert len(lines(printed, ": took ")) == 1
  assert lines(printed, ": took ")[0].startswith("[11/14] b/compare")
  record = json.loads((tmp_path / "out" / "experiment.json").read_text())
  assert len(record) == 14
  assert all(entry["seconds"] >= 0 for entry in record.values())


def test_what_goes_on_after_a_kill_is_waited_for(experiment, tmp_path):
  """The run that an experiment had begun holds the lock of its workdir."""
  workdir = tmp_path / "out" / "a" / "sft"
  workdir.mkdir(parents=True)
  begun = threading.Event()

  def finish():
    with workdir_lock.locked(str(workdir)):
      begun.set()
      while not (tmp_path / "out" / ".lock").exists():  # it has begun
        time.sleep(0.1)
      time.sleep(2)
      (workdir / "summary.json").touch()

  thread = threading.Thread(target=finish)
  thread.start()
  begun.wait()
  status, printed, errors = experiment("--data=a=A")
  thread.join()
  assert status == 0, errors
  assert "is in use by another run" in printed
  assert "[1/5] a/sft: done" in printed
  with workdir_lock.locked(str(tmp_path / "out")):
    status, _, errors = experiment("--data=a=A")
  assert (status, "is in use by another experiment" in errors) == (1, True)


def test_a_failure_leaves_out_the_rest_of_its_data_set_only(experiment):
  status, printed, errors = experiment("--data=a=fail,b=B")
  assert status == 1
  assert errors.startswith("error: failed: a/sft; ")
  assert "[1/10] a/sft: failed with status 3" in printed
  assert len(lines(printed, "left out, as a/sft failed")) == 4
  assert len(lines(printed, ": took ")) == 5


def test_results_of_other_flags_are_not_taken_for_these(experiment, tmp_path):
  assert experiment("--data=a=A")[0] == 0
  other = "--rl_flags=--config.train.steps=9"
  status, printed, errors = experiment("--data=a=A", other)
  assert (status, printed) == (1, "")
  assert f"a/rl_seed0: {ROOT}/main.py --config={ROOT}/configs/rl.py" in errors
  assert "a/sft:" not in errors
  # The record says what made it, so that it can be made again.
  (tmp_path / "out" / "a" / "rl_seed0" / "summary.json").unlink()
  assert experiment("--data=a=A", other)[0] == 0


def test_what_cannot_run_is_refused_before_anything_has(experiment, tmp_path):
  status, printed, errors = experiment(
    "--data=a=A,b=C,w=synthetic",
    "--flags=--config.eval.users_during=4",
    "--sft_flags=--config.optim.lr=-1",
  )
  assert (status, printed) == (1, "")
  for name in "abw":
    # Of training alone; an evaluation has no users during it.
    assert f"{name}/evaluate: unknown config key 'eval.users_during'" in errors
    assert f"{name}/sft: optim.lr is -1.0: expected" in errors
    assert f"{name}/rl_seed0: " not in errors.replace("b/rl_seed0: no data", "")
  assert "b/evaluate: no data set at C" in errors
  assert "w/sft: no data set" not in errors
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", ["", "a", "=x", "a=", "a=x,a=y", "a/b=x"])
def test_data_sets_have_names_of_their_own(experiment, data):
  status, _, errors = experiment(f"--data={data}")
  assert status == 1
  assert "expected NAME=DIR" in errors
  assert len(errors.splitlines()) == 1
