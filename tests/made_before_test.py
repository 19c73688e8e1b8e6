"""Workdirs and data sets made by commit 6c08afc (2026-11-24) still open.

tests/fixtures/made_at_6c08afc.tar.xz holds what that commit's own commands
left: model/ (a random Janus of 322,381 parameters), data/ (a data set of
tools/prepare_data.py, six users of six items), run/ (SFT on it), run_rl/ (RL of
adapters after that SFT) and exported_sums.json (the sum of |x| of every tensor
of both runs, as its tools/export_hf.py wrote them). In the files FOLDER stands
for the place, and the hash of run/ in run_rl/ is of the files with that word.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from genrec_jax.data import dataset
from tests.tools.process import ROOT, run_tool

ARCHIVE = ROOT / "tests/fixtures/made_at_6c08afc.tar.xz"


@pytest.fixture(scope="module")
def made_before(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made_before")
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder, filter="data")
  for path in folder.glob("run*/config.json"):
    path.write_text(path.read_text().replace("FOLDER", str(folder)))
  return folder


def test_a_data_set_opens(made_before):
  opened = dataset.load(str(made_before / "data"))
  assert len(opened.users) == 6
  assert len(opened.items) == 6


@pytest.mark.parametrize("name", ["run", "run_rl"])
def test_a_workdir_is_exported_as_it_was(name, made_before, tmp_path):
  status, _, error = run_tool(
    "export_hf.py",
    f"--workdir={made_before / name}",
    f"--out={tmp_path / 'exported'}",
  )
  assert status == 0, error
  sums = {
    key: float(np.abs(value.astype(np.float64)).sum())
    for path in (tmp_path / "exported").glob("*.safetensors")
    for key, value in load_file(path).items()
  }
  expected = json.loads((made_before / "exported_sums.json").read_text())[name]
  assert sums.keys() == expected.keys()
  for key, value in expected.items():
    # Adapters are merged in float32; its products may round otherwise.
    np.testing.assert_allclose(sums[key], value, rtol=1e-6, err_msg=key)


def test_a_workdir_is_evaluated_on_the_data_it_was_trained_on(
  made_before, tmp_path
):
  done = subprocess.run(
    [
      sys.executable,
      str(ROOT / "main.py"),
      f"--config={ROOT}/configs/evaluate.py:debug",
      f"--workdir={tmp_path / 'evaluated'}",
      f"--config.model.checkpoint={made_before / 'run_rl'}",
      "--config.data.future_horizon=1",
      "--config.eval.users=2",
      "--config.eval.batch_size=2",
    ],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": ""},  # one device, for batches of two
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert str(made_before / "data") in done.stdout
  summary = pathlib.Path(tmp_path / "evaluated/summary.json").read_text()
  assert {"base", "sft", "rl"} <= set(json.loads(summary)["models"])
