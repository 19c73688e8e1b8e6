import json
import os

import pytest

from genrec_jax.config import finished, flag
from tests.configs_test import ROOT

CONFIG = f"{ROOT}/configs/rl.py:debug"


def _config(**overrides):
  return flag.load(
    CONFIG, {k.replace("__", "."): v for k, v in overrides.items()}
  )


@pytest.fixture
def run(tmp_path):
  """A finished run, as main.py leaves it: with paths and hashes filled in."""
  values = json.loads(_config().to_json())
  values["workdir"] = "elsewhere"
  values["data"]["sha256"] = "12"
  (tmp_path / "config.json").write_text(json.dumps(values))
  for name in ("summary.json", "scores.parquet", "report.html"):
    (tmp_path / name).write_text("")
  return tmp_path


def test_results_of_the_same_config_are_finished(run):
  assert finished.finished(str(run), _config())


@pytest.mark.parametrize(
  "change",
  [{"train__steps": "8"}, {"rl__advantage": "rloo"}, {"data__num_users": "9"}],
)
def test_those_of_another_are_not(run, change):
  assert not finished.finished(str(run), _config(**change))


def test_a_run_that_began_again_is_not(run):
  later = (run / "report.html").stat().st_mtime + 5
  os.utime(run / "config.json", (later, later))
  assert not finished.finished(str(run), _config())


def test_a_run_without_all_results_is_not(run):
  (run / "report.html").unlink()
  assert not finished.finished(str(run), _config())
  assert not finished.finished(str(run / "no"), _config())


def test_data_that_a_checkpoint_hands_down_may_differ(run, tmp_path):
  start = tmp_path / "start"
  start.mkdir()
  (start / "config.json").write_text("{}")
  values = json.loads((run / "config.json").read_text())
  values["model"]["checkpoint"] = str(start)
  values["data"]["num_users"] = 7
  (run / "config.json").write_text(json.dumps(values))
  for name in ("summary.json", "scores.parquet", "report.html"):
    (run / name).write_text("")
  assert finished.finished(str(run), _config(model__checkpoint=str(start)))
