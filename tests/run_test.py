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

from genrec_jax.core import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
METRICS = {
  "history_clip_mean",
  "history_clip_max",
  "future_clip_mean",
  "text_clip",
  "preference_match",
  "copy_rate",
  "diversity",
}
BASELINES = {"real_next_item", "random_item", "copy_last"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("run")


def command(folder, task, workdir, *options):
  """Starts main.py where its default folders are the test's own."""
  # One device, as a newcomer has; the steps' own tests have eight.
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  return subprocess.Popen(
    [
      sys.executable,
      str(ROOT / "main.py"),
      f"--config={ROOT}/configs/{task}.py:debug",
      f"--workdir={folder / workdir}",
      *options,
    ],
    cwd=folder,
    env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 0, output[-4000:]
  return output


def check(folder, workdir, models, shuffled):
  summary = json.loads((folder / workdir / "summary.json").read_text())
  assert summary["users"] == 8
  assert set(summary["models"]) == models | BASELINES
  assert set(summary["shuffled"]) == shuffled
  for values in summary["models"].values():
    assert set(values) == METRICS
    for interval in values.values():
      assert interval["low"] <= interval["mean"] <= interval["high"]
  assert "<html" in (folder / workdir / "report.html").read_text()
  assert (folder / workdir / "config.json").exists()


@pytest.fixture(scope="module")
def rl(folder):
  return finish(command(folder, "rl", "rl"))


def test_rl(folder, rl):
  check(folder, "rl", {"base", "sft", "rl"}, {"sft", "rl"})
  assert "step 4/4" in rl
  assert "real_next_item" in rl
  rows = [
    json.loads(line)
    for line in (folder / "rl" / "metrics.jsonl").read_text().splitlines()
  ]
  assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3, 4]
  assert all(
    row["ratio_error_at_start"] < 1e-4 for row in rows if "reward" in row
  )
  assert list((folder / "rl" / "samples").glob("*.png"))


def test_a_killed_run_ends_as_if_it_had_not_been(folder, rl):
  process = command(folder, "rl", "killed")
  # Killed as soon as the first save has begun, whole or not.
  while not list((folder / "killed").glob("checkpoints/2*")):
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  finish(command(folder, "rl", "killed"))
  whole, killed = folder / "rl", folder / "killed"
  assert (whole / "metrics.jsonl").read_bytes() == (
    killed / "metrics.jsonl"
  ).read_bytes()
  jax.tree.map(
    np.testing.assert_array_equal,
    checkpoint.read_params(str(whole)),
    checkpoint.read_params(str(killed)),
  )
  assert (whole / "summary.json").read_text() == (
    killed / "summary.json"
  ).read_text()


def test_sft_and_evaluation_of_its_workdir(folder, rl):
  finish(command(folder, "sft", "sft"))
  check(folder, "sft", {"base", "sft"}, {"sft"})
  output = finish(
    command(
      folder,
      "evaluate",
      "evaluate",
      f"--config.model.checkpoint={folder / 'sft'}",
    )
  )
  check(folder, "evaluate", {"base", "sft"}, {"sft"})
  assert "sft shuffled" in output


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good(folder, rl):
  shutil.rmtree(folder / "nan", ignore_errors=True)
  process = command(folder, "sft", "nan", "--config.optim.lr=1e30")
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 1
  assert "error: " in output
  assert "at step" in output or "after step" in output
