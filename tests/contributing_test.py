"""CONTRIBUTING's ways to add a thing, each followed as it is written."""

import csv
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from configs import evaluate
from configs import rl as rl_config
from configs import sft as sft_config
from genrec_jax import rows as rows_lib
from genrec_jax.config import check
from genrec_jax.core import tree
from genrec_jax.data import dataset
from genrec_jax.evals import metrics
from genrec_jax.evals import summary as summary_lib
from genrec_jax.evals.held_out import Rows
from genrec_jax.evals.recommenders import fits, interactions
from genrec_jax.hf import export, families, load
from genrec_jax.targets import Targets
from genrec_jax.train import build, rl, sft
from genrec_jax.train.plan import make_plan
from tests import toy_family
from tests.hf import tiny_janus
from tests.tools.process import ROOT, run_tool

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def block(heading: str) -> str:
  """Returns the Python under a heading."""
  section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
  [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  return code


def test_the_files_it_names_are_there():
  paths = re.findall(r"`((?:genrec_jax|configs|tests|docs)/[\w/.]+)`", TEXT)
  missing = {path for path in paths if not (ROOT / path).exists()}
  # What is to be written.
  assert missing == {"genrec_jax/models/yours.py", "genrec_jax/hf/yours.py"}


def test_a_reward_in_a_config_of_ones_own_is_trained_on(tmp_path):
  folder = tmp_path / "my_configs"
  folder.mkdir()
  (folder / "distinct.py").write_text(block("Add a reward"))
  done = subprocess.run(
    [
      sys.executable,
      str(ROOT / "main.py"),
      f"--config={folder}/distinct.py:debug",
      f"--workdir={tmp_path / 'run'}",
      "--config.train.steps=1",
      "--config.train.eval_every=0",
      "--config.sample.num_samples=3",  # of two, both are as far apart
    ],
    check=False,
    capture_output=True,
    text=True,
    env=os.environ,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  metrics = json.loads(rows[0])
  assert 0 < metrics["reward/distinct_mean"] < 2
  assert metrics["reward/distinct_contribution"] != 0  # a signed share


def test_a_metric_has_a_column_and_values(monkeypatch):
  monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
  added: dict = {}
  exec(block("Add a metric"), added)
  assert metrics.METRICS["text_clip_max"].title == "text max"
  samples = np.eye(4, dtype=np.float32)[None, :2]  # [1, 2, 4]
  targets = Targets(
    text=np.float32([[0.6, 0.8, 0, 0]]),
    history=np.zeros((1, 1, 4)),
    history_mask=np.ones((1, 1), bool),
    future=np.zeros((1, 1, 4)),
    future_mask=np.ones((1, 1), bool),
  )
  values = added["text_clip_max"](samples, targets)
  np.testing.assert_allclose(values, [0.8], rtol=1e-6)


def test_a_recommender_has_a_row_and_recommends(monkeypatch):
  for names in (fits.FITS, rows_lib.RECOMMENDERS):
    # Put back afterwards, whatever is added.
    monkeypatch.setitem(names, "like_last", None)
  exec(block("Add a recommender"), {})
  assert rows_lib.title("like_last") == "like last"
  config = evaluate.get_config("debug")
  config.eval.recommenders = ("like_last",)
  check(config)
  angles = np.arange(5) / 2
  embeds = np.stack([np.cos(angles), np.sin(angles)], -1)
  known = fits.Known(
    interactions.of_histories([np.arange(5)], 5), embeds, length=2, seed=0
  )
  shown = (np.asarray([0, 4]), np.asarray([4, 1]))  # the newest: 4 and 1
  users = Rows(shown, (shown[0], np.asarray([4, 1, 0])), np.asarray([2, 3]))
  found = fits.recommend_all(["like_last"], known, users)["like_last"]
  assert found.best.tolist() == [3, 2]
  assert found.ranks.tolist() == [2, 2]
  summary = summary_lib.summarise(
    {"rl": {"text_clip": np.ones(2)}, "like_last": {"text_clip": np.zeros(2)}},
    seed=0,
    population="users",
  )
  groups = [(group, name) for group, name, _ in summary_lib.rows(summary)]
  assert groups == [("model", "rl"), ("recommender", "like_last")]
  assert summary["differences"]["rl - like_last"]["text_clip"]["mean"] == 1


def test_a_data_set_is_prepared_and_opens(tmp_path):
  raw = tmp_path / "raw"
  (raw / "images").mkdir(parents=True)
  with open(raw / "plays.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["listener", "song", "played"])
    for user in range(4):
      for k in range(4):
        rows.writerow([f"u{user}", f"s{(user + k) % 4}", 1_600_000_000 + k])
  with open(raw / "songs.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["song", "name"])
    for item in range(4):
      rows.writerow([f"s{item}", f"Song {item}"])
      color = (60 * item, 90, 120)
      Image.new("RGB", (32, 32), color).save(raw / f"images/s{item}.png")
  code = block("Add a data set") + "\n\nimport runpy, sys\n"
  code += (
    "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
  )
  status, printed, error = run_tool(
    "prepare_data.py",
    "--dataset=songs",
    f"--raw={raw}",
    f"--out={tmp_path / 'songs'}",
    "--k_core=1",
    code=code,
  )
  assert status == 0, error
  assert "whole" in printed
  opened = dataset.load(str(tmp_path / "songs"))
  assert len(opened.users) == len(opened.items) == 4


def test_a_family_of_ones_own_is_trained_and_exported(tmp_path, monkeypatch):
  """By the real SFT and RL, two steps each, and nothing else is changed."""
  alone = functools.partial(make_plan, devices=jax.devices()[:1])
  monkeypatch.setattr(build, "make_plan", alone)
  monkeypatch.setitem(families.FAMILIES, "toy", toy_family.FAMILY)
  toy_family.write(tmp_path / "toy")
  checkpoint, found = tmp_path / "toy", {}
  before = load.load_generator(checkpoint, dtype="float32").params
  for task, make in (("sft", sft_config), ("rl", rl_config)):
    config = make.get_config("debug")
    config.update_from_flattened_dict(
      {
        "model.checkpoint": str(checkpoint),
        "model.trainable": ("^words/", "^codes/", "^head/"),
        "train.steps": 2,
        "train.eval_every": 0,
        "optim.decay_steps": 0,
      }
    )
    if task == "rl":
      config.eval.base = ""
    checkpoint = tmp_path / task
    {"sft": sft, "rl": rl}[task].run(config, str(checkpoint))
    rows = (checkpoint / "metrics.jsonl").read_text().splitlines()
    found[task] = [json.loads(row) for row in rows]
    assert (checkpoint / "report.html").exists()
    opened = load.open_generator(checkpoint, dtype="float32")
    assert len(opened.trained) == 3
    moved = tree.flatten(opened.read())
    for path, value in tree.flatten(before).items():
      assert (moved[path] != value).any(), path
    before = opened.read()
  assert all(row["loss"] > 0 for row in found["sft"] if "loss" in row)
  for row in (row for row in found["rl"] if "reward" in row):
    assert row["ratio_max_deviation"] == 0
    assert row["sampler_mismatch_max"] < 1e-4
  export.export_checkpoint(tmp_path / "exported", opened)
  again = load.load_generator(tmp_path / "exported", dtype="float32")
  for path, value in tree.flatten(again.params).items():
    np.testing.assert_array_equal(value, opened.trained[path][...])


def test_a_model_of_another_type_is_loaded(monkeypatch, tmp_path):
  folder = pathlib.Path(tiny_janus.save(tmp_path / "model"))
  expected = load.load_generator(str(folder), dtype="float32").params
  config = json.loads((folder / "config.json").read_text())
  config["model_type"] = "janus_of_ours"
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.raises(Exception, match="janus_of_ours"):
    load.load_generator(str(folder), dtype="float32")
  monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
  exec(block("Add a model"), {})
  loaded = load.load_generator(str(folder), dtype="float32")
  for ours, theirs in zip(
    jax.tree.leaves(loaded.params),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
