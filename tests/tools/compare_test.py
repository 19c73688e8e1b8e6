import json

import numpy as np
import pytest

from genrec_jax.evals import per_user
from tests.tools.process import run_tool


@pytest.fixture
def runs(tmp_path):
  for name, mean in (("a", 0.25), ("b", 0.125)):
    (tmp_path / name).mkdir()
    rows = {"rl": {"text_clip": np.full(3, mean)}}
    per_user.write(str(tmp_path / name), ["1", "2", "3"], rows)
  return str(tmp_path / "a"), str(tmp_path / "b")


def test_prints_and_keeps_paired_differences(runs, tmp_path):
  out = tmp_path / "out"
  status, printed, errors = run_tool("compare.py", *runs, f"--out={out}")
  assert status == 0, errors
  assert "text              +0.1250  [+0.1250, +0.1250]" in printed
  kept = json.loads((out / "compare.json").read_text())
  found = kept["differences"][f"{runs[0]} rl - {runs[1]} rl"]["text_clip"]
  assert (found["mean"], found["low"], found["high"]) == (0.125,) * 3
  assert json.loads(printed[printed.index("{") :]) == kept


def test_two_runs_are_needed(runs):
  status, printed, errors = run_tool("compare.py", runs[0])
  assert (status, printed) == (1, "")
  assert errors.startswith("error: 1 runs and 2 rows: expected two of each")
  assert len(errors.splitlines()) == 1
