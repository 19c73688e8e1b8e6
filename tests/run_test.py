"""main.py on the shipped models: all three tasks, a kill, and a resume."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genrec_jax import rows
from genrec_jax.data import synthetic
from genrec_jax.evals.metrics import describe
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.runtime import workdir_lock
from tests.hf import tiny_janus

ROOT = pathlib.Path(__file__).parents[1]
METRICS = {
  "history_clip_mean",
  "history_clip_max",
  "future_clip_mean",
  "future_clip_next",
  "catalogue_copy_clip",
  "text_clip",
  "preference_match",
  "future_match",
  "copy_rate",
  "diversity",
}
# All of the embedded world's; debug runs train no recommender.
BASELINES = rows.ROWS.keys() - {"sasrec"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("run")


def command(folder, task, workdir, *options):
  """Starts main.py where its default folders are the test's own."""
  # One device, as a newcomer has; the steps' own tests have eight.
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  # Compilations are logged as warnings.
  environment = {
    "XLA_FLAGS": flags,
    "PYTHONPATH": str(ROOT),
    "JAX_LOG_COMPILES": "1",
  }
  log = folder / f"{workdir}.log"
  # A file, not a pipe: nobody reads while a run is waited for.
  with log.open("a") as file:
    process = subprocess.Popen(
      [
        sys.executable,
        str(ROOT / "main.py"),
        f"--config={ROOT}/configs/{task}.py:debug",
        f"--workdir={folder / workdir}",
        "--verbosity=-1",
        *options,
      ],
      cwd=folder,
      env=os.environ | environment,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return process, log


def finish(started, status=0):
  """Waits for a run; returns what it printed."""
  process, log = started
  assert process.wait(timeout=600) == status, log.read_text()[-4000:]
  return log.read_text()


def compiled(output, name):
  """Returns how often a jitted function was compiled."""
  return output.count(f"Finished XLA compilation of jit({name})")


def check(folder, workdir, models, shuffled):
  summary = json.loads((folder / workdir / "summary.json").read_text())
  assert summary["users"] == 8
  assert set(summary["models"]) == models | BASELINES
  assert set(summary["shuffled"]) == shuffled
  for row, values in summary["models"].items():
    assert set(values) >= METRICS
    assert {describe(m).judge for m in set(values) - METRICS} == {"tiny_judge"}
    assert "mrr_tiny_judge" in values
    # The real next items have no distance from themselves.
    assert (row in summary["sets"]) == (row != "real_next_item")
    for interval in values.values():
      assert interval["low"] <= interval["mean"] <= interval["high"]
  assert "<html" in (folder / workdir / "report.html").read_text()
  assert (folder / workdir / "config.json").exists()


STEPS = "--config.train.steps=6"  # checkpoints at 2, 4 and 6


@pytest.fixture(scope="module")
def rl(folder):
  return finish(command(folder, "rl", "rl", STEPS))


def test_rl(folder, rl):
  check(folder, "rl", {"base", "sft", "rl"}, {"sft", "rl"})
  assert "step 6/6" in rl
  assert "real next item" in rl
  rows = [
    json.loads(line)
    for line in (folder / "rl" / "metrics.jsonl").read_text().splitlines()
  ]
  assert [row["step"] for row in rows if "reward" in row] == list(range(1, 7))
  assert all(
    row["sampler_mismatch_max"] < 1e-4 for row in rows if "reward" in row
  )
  assert list((folder / "rl" / "samples").glob("*.png"))


def test_the_copy_threshold_is_measured_before_the_first_step(rl):
  before, after = rl.split("step 1/6")
  own, pairs, judge = (
    line for line in before.splitlines() if line.startswith("copy threshold")
  )
  assert judge.startswith("copy threshold of tiny_judge: 0.")
  assert "256 items have with their own VQ reconstruction" in own
  assert "pairs of different items have a CLIP cosine of" in pairs
  # The threshold of the shipped models is a good one.
  assert "warning: the copy threshold" not in before
  assert "copy threshold" not in after


def test_each_function_is_compiled_once_in_a_run(rl):
  # Six steps, four evaluations, three models and shuffled histories.
  assert compiled(rl, "train_step") == 1
  assert compiled(rl, "reconstruct") == 1  # for the threshold and the ceiling
  assert compiled(rl, "generate") == 1  # for evaluation


def test_a_killed_run_ends_as_if_it_had_not_been(folder, rl):
  whole, killed = folder / "rl", folder / "killed"
  process, log = command(folder, "rl", "killed", STEPS)
  # Killed while the second checkpoint is written, the first being whole.
  while not list(killed.glob("checkpoints/4*")):
    assert process.poll() is None, log.read_text()
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  log.unlink()
  begun = workdir_lib.newest_step(str(killed))
  assert begun in (2, 4)  # 4 if the save was quicker than the kill
  output = finish(command(folder, "rl", "killed", STEPS))
  assert f"resumed at step {begun} of 6" in output
  assert compiled(output, "train_step") == 1
  assert (whole / "metrics.jsonl").read_bytes() == (
    killed / "metrics.jsonl"
  ).read_bytes()
  jax.tree.map(
    np.testing.assert_array_equal,
    tiny_janus.read_params(str(whole)),
    tiny_janus.read_params(str(killed)),
  )
  assert (whole / "summary.json").read_text() == (
    killed / "summary.json"
  ).read_text()


SFT_DATA = ("--config.data.path=set", "--config.data.history_length=3")


@pytest.fixture(scope="module")
def sft(folder):
  """An SFT run on a prepared data set, with histories of its own."""
  synthetic.build(folder / "set", num_users=40, held_out=10)
  return finish(command(folder, "sft", "sft", *SFT_DATA))


def test_sft_and_evaluation_of_its_workdir(folder, sft):
  assert compiled(sft, "train_step") == 1
  check(folder, "sft", {"base", "sft"}, {"sft"})
  model = f"--config.model.checkpoint={folder / 'sft'}"
  output = finish(command(folder, "evaluate", "evaluate", model))
  check(folder, "evaluate", {"base", "sft"}, {"sft"})
  assert "sft shuffled" in output
  # On what it was trained on, though the command names neither.
  assert f"evaluating on {folder / 'set'}\n" in output
  assert output.count("\ncopy threshold 0.97:") == 2
  data = workdir_lib.read_config(str(folder / "evaluate"))["data"]
  assert data["path"] == str(folder / "set")
  assert data["history_length"] == 3


def test_a_run_is_prolonged_on_data_that_moved_but_not_on_other(folder, sft):
  del sft
  shutil.copytree(folder / "sft", folder / "longer")
  shutil.copytree(folder / "set", folder / "moved")
  swapped = synthetic.build(folder / "swapped", num_users=40, seed=1)
  more = (SFT_DATA[1], "--config.train.steps=5")
  other = (*more, f"--config.data.path={swapped}")
  output = finish(command(folder, "sft", "longer", *other), status=1)
  assert f"{swapped} is not what the run began with" in output
  moved = (*more, "--config.data.path=moved")
  output = finish(command(folder, "sft", "longer", *moved))
  assert "train.steps: 4 there, 5 now" in output
  assert "resumed at step 4 of 5" in output
  assert workdir_lib.newest_step(str(folder / "longer")) == 5


def test_a_second_run_in_a_workdir_is_refused(folder, sft):
  del sft
  with workdir_lock.locked(str(folder / "sft")):
    output = finish(command(folder, "sft", "sft", *SFT_DATA), status=1)
  (error,) = [line for line in output.splitlines() if line[:6] == "error:"]
  assert f"{folder / 'sft'} is in use by another run (process" in error


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good(folder):
  # The first update is finite, the loss after it is not.
  started = command(
    folder,
    "sft",
    "nan",
    "--config.optim.lr=1e30",
    "--config.train.checkpoint_every=1",
    "--config.train.eval_every=0",
  )
  output = finish(started, status=1)
  (error,) = [line for line in output.splitlines() if line[:6] == "error:"]
  assert "loss is nan at step 2" in error
  workdir = str(folder / "nan")
  assert f"the last good checkpoint is {workdir}/checkpoints/1" in error
  assert workdir_lib.newest_step(workdir) == 1
  for leaf in jax.tree.leaves(tiny_janus.read_params(workdir)):
    assert np.isfinite(leaf).all()
