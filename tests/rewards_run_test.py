"""main.py with every reward and every memory on: a stop, a failure."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from genrec_jax.core import tree
from genrec_jax.hf.locate import ASSETS
from genrec_jax.runtime import saved_params

ROOT = pathlib.Path(__file__).parents[1]
FUNCTIONS = """
import numpy as np


def brightness(images, metadata):
  assert set(metadata) == {"user", "item", "title", "history_titles"}
  assert 1 <= len(metadata["history_titles"]) <= 3
  return images.mean((1, 2, 3)) / 255


def broken(images, metadata):
  raise ConnectionError("no service at :8000")


calls = 0


def breaks_in_the_run(images, metadata):
  global calls
  calls += 1
  if calls > 1:  # the first is the probe
    raise ConnectionError("the service went away")
  return brightness(images, metadata)
"""
ON = [
  "--config.eval.judges=()",  # which may not be an encoder that rewards
  "--config.rewards.encoders=('tiny_judge',)",
  "--config.rewards.schedule=(('copy', 0, 0.0), ('copy', 4, 1.0))",
  "--config.objective.kl_schedule=((0, 1.0), (4, 0.0))",
  "--config.rewards.diversity.weight=0.3",
  "--config.rewards.quality.weight=0.2",
  "--config.rewards.quality.checkpoint=pickscore",
  "--config.rewards.external.weight=0.1",
  "--config.rewards.external.function=of_ours:brightness",
  "--config.rl.ema_decay=0.5",
  "--config.rl.reset_reference_every=3",
  "--config.objective.entropy_weight=0.1",
  "--config.objective.entropy_target=9.0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp("rewards")
  (made / "of_ours.py").write_text(FUNCTIONS)
  # Of CLIP's format, as PickScore is.
  shutil.copytree(ASSETS / "tiny_clip", made / "pickscore")
  return made


def command(folder, task, workdir, *options, status=0):
  """Runs main.py in a folder, as on one device; returns what it prints."""
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  done = subprocess.run(
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
    check=False,
  )
  assert done.returncode == status, done.stdout[-4000:]
  return done.stdout


def run(folder, workdir, *options, status=0):
  return command(
    folder,
    "rl",
    workdir,
    "--config.data.history_length=3",
    "--config.sample.num_samples=3",  # of two, both are as far apart
    "--config.eval.base=",
    *options,
    status=status,
  )


def rows(folder, workdir):
  lines = (folder / workdir / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if "reward" in row]


def params(folder, workdir):
  read = saved_params.open_params(str(folder / workdir))
  return {path: np.asarray(x[...]) for path, x in tree.flatten(read).items()}


def test_all_on_resumes_bit_for_bit(folder):
  printed = run(folder, "whole", *ON, "--config.train.steps=4")
  run(folder, "stopped", *ON, "--config.train.steps=2")
  again = run(folder, "stopped", *ON, "--config.train.steps=4")
  assert "resumed at step 2 of 4" in again
  for name in ("metrics.jsonl", "summary.json"):
    one, other = (
      (folder / workdir / name).read_bytes() for workdir in ("whole", "stopped")
    )
    assert one == other, name
  one, other = params(folder, "whole"), params(folder, "stopped")
  for path, value in one.items():
    np.testing.assert_array_equal(value, other[path], err_msg=path)

  # What a person sees of it.
  assert "first prompt, " in printed
  assert "<image_placeholder>*" in printed
  assert "throughput of 1 x cpu: " in printed
  found = rows(folder, "whole")
  assert [row["reward/copy_weight"] for row in found] == [0, 0.25, 0.5, 0.75]
  np.testing.assert_allclose(
    [row["kl_weight"] for row in found],
    [0.05, 0.0375, 0.025, 0.0125],
    rtol=1e-6,
  )
  for row in found:
    ours = [k.removeprefix("reward/") for k in row if k.startswith("reward/")]
    names = {k.removesuffix("_mean") for k in ours if k.endswith("_mean")}
    assert {"future", "future_tiny_judge", "diversity_tiny_judge"} <= names
    assert {"quality", "external", "text", "copy"} <= names
    assert "text_tiny_judge" not in names  # it reads no texts
    assert row["reward/external_dropped"] == 0
    assert 0 < row["reward/external_mean"] < 1
    assert row["entropy_shortfall"] > 0
  # Reset after the third step: the fourth begins at its reference.
  assert found[2]["kl"] > 1e-9
  assert found[3]["kl"] < 0.01 * found[2]["kl"]


def test_an_external_reward_that_breaks_from_the_start_costs_no_run(folder):
  output = run(
    folder,
    "broken",
    "--config.rewards.external.weight=1.0",
    "--config.rewards.external.function=of_ours:broken",
    status=1,
  )
  assert (
    "error: rewards.external.function='of_ours:broken' fails for images of the"
    " data set (ConnectionError: no service at :8000)"
  ) in output
  assert not (folder / "broken" / "metrics.jsonl").exists()


def test_one_that_breaks_in_the_run_ends_it_and_loses_nothing(folder):
  output = run(
    folder,
    "away",
    "--config.rewards.external.weight=1.0",
    "--config.rewards.external.function=of_ours:breaks_in_the_run",
    "--config.train.eval_every=0",
    status=1,
  )
  assert "rewards.external failed (ConnectionError: the service went" in output
  assert "error: rewards.external failed for every prompt of step 1: " in output
  assert "the same command goes on" in output
  assert not rows(folder, "away")
