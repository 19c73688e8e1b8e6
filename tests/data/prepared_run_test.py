"""SFT and RL on MovieLens latest-small, with posters that the test paints."""

import collections
import csv
import html
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import windows
from genrec_jax.ingest import job, raw_data, tfds_builder
from genrec_jax.ingest.readers import movielens

ROOT = pathlib.Path(__file__).parents[2]
RAW = ROOT / "../shared/data/ml-latest-small"
pytestmark = pytest.mark.skipif(
  not RAW.is_dir(), reason=f"needs MovieLens latest-small in {RAW}"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  """Films with at least 5 of 5 users' ratings of 4 or more, 32 pixels high."""
  folder = tmp_path_factory.mktemp("movielens")
  posters = folder / "posters"
  posters.mkdir()
  rng = np.random.default_rng(0)
  with (RAW / "movies.csv").open(newline="") as file:
    for row in csv.DictReader(file):
      pixels = rng.integers(0, 256, (4, 3, 3), np.uint8)
      image = Image.fromarray(pixels).resize((24, 32), Image.Resampling.BOX)
      image.save(posters / f"{row['movieId']}.jpg")
  raw = raw_data.Raw(*movielens.tables(RAW), posters)
  settings = raw_data.settings(
    raw,
    dataset="movielens",
    min_rating=4,
    k_core=5,
    future_horizon=1,
    image_size=32,
  )
  work = job.make(raw, folder / "work", settings, processes=1, memory_gb=1)
  return dataset_lib.load(
    tfds_builder.store("movielens", work, folder / "data")
  )


def _run(dataset, task, folder, *options):
  """Runs a few steps of main.py on the data set; returns what it printed."""
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  run = subprocess.run(
    [
      sys.executable,
      str(ROOT / "main.py"),
      f"--config={ROOT}/configs/{task}.py:debug",
      f"--workdir={folder / task}",
      f"--config.data.path={dataset.path}",
      "--config.train.steps=3",
      "--config.train.eval_every=0",
      "--config.data.history_length=3",
      *options,
      "--verbosity=-1",
    ],
    cwd=folder,
    env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
  return run.stdout


def _check(dataset, folder, task, printed):
  lines = (folder / task / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if "loss" in row]
  assert [row["step"] for row in rows] == [1, 2, 3]
  assert all(math.isfinite(row["loss"]) for row in rows)
  summary = json.loads((folder / task / "summary.json").read_text())
  assert summary["users"] == 8
  real = summary["models"]["real_next_item"]
  assert "preference_match" not in real  # nobody knows it
  assert real["future_clip_mean"]["mean"] == pytest.approx(1, abs=1e-5)
  assert task in summary["models"]
  page = (folder / task / "report.html").read_text()
  assert "<html" in page
  # All users are trained on: nobody is held out but everybody's last items.
  assert summary["population"] == "users' held-out last items"
  assert "held-out users" not in page + printed
  # Painted posters, seen by models that know the synthetic world only.
  assert "bundled tiny models" in summary["warnings"][0]
  assert f"warning: {summary['warnings'][0]}" in printed
  assert "bundled tiny models" in page
  assert "CLIP cannot tell real from random" in page + printed
  titles = {record["title"].decode() for record in dataset.items}
  shown = re.findall(r'class="title">([^<]+)<', page)
  assert {html.unescape(title) for title in shown} <= titles
  assert len(shown) > 8


def test_the_windows_are_those_of_the_ratings(dataset):
  """Of the users' own events: all but the last two are train targets."""
  ratings = collections.defaultdict(list)
  kept = {record["id"].decode() for record in dataset.items}
  with (RAW / "ratings.csv").open(newline="") as file:
    for row in csv.DictReader(file):
      if float(row["rating"]) >= 4 and row["movieId"] in kept:
        ratings[row["userId"]].append((int(row["timestamp"]), row["movieId"]))
  users = {record["id"].decode(): record for record in dataset.users}
  assert users.keys() <= ratings.keys()
  expected = 0
  for user, record in users.items():
    events = sorted(ratings[user])
    items = [item.decode() for item in record["items"]]
    assert items == [item for _, item in events]
    expected += len(events) - 2 - 1
  found = windows.find_windows(dataset, "train", windows.WindowSpec(5, 3))
  assert len(found) == expected
  counts = found.counts()
  assert counts.users == len(users)
  # Those with fewer than 5 + 3 items to train on.
  short = sum(len(record["items"]) - 2 < 8 for record in dataset.users)
  assert counts.short == short > 0


def test_sft_and_rl_run_on_it(dataset, tmp_path):
  printed = _run(dataset, "sft", tmp_path, "--config.data.workers=1")
  assert "training windows of" in printed
  _check(dataset, tmp_path, "sft", printed)
  printed = _run(dataset, "rl", tmp_path, "--config.data.short_histories=drop")
  assert "left out" in printed
  _check(dataset, tmp_path, "rl", printed)
