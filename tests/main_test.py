import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def main(*args):
  done = subprocess.run(
    [sys.executable, "main.py", *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  return done.returncode, done.stderr


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (
      ["--config=configs/rl.py:big"],
      "unknown variant 'big' of configs/rl.py: expected none or one of debug,"
      " janus_pro_1b, janus_pro_7b",
    ),
    (
      ["--config=configs/sft.py", "--config.train.stepz=3"],
      "unknown config key 'train.stepz': did you mean steps?",
    ),
    (
      ["--config=configs/sft.py", "--config.nothing=3"],
      "unknown config key 'nothing': see the file's keys",
    ),
    (
      ["--config=configs/sft.py", "--config.nothing.at_all=3"],
      "unknown config key 'nothing.at_all': see the file's keys",
    ),
    (
      ["--config=configs/sft.py", "--config.train.steps=many"],
      "flag --config.train.steps=many: invalid literal for int() with base 10:"
      " 'many'",
    ),
    (
      ["--config=configs/no.py"],
      "no config file 'configs/no.py': expected one such as configs/rl.py",
    ),
    (
      ["--config", "configs/no.py:debug"],
      "no config file 'configs/no.py': expected one such as configs/rl.py",
    ),
    (
      [],
      "flag --config=None: Flag --config must have a value other than None.",
    ),
    (
      ["--config=configs/rl.py", "--nope=1"],
      "Unknown command line flag 'nope'",
    ),
    (
      ["--config=configs/rl.py", "train.steps=3"],
      "unexpected argument 'train.steps=3': options start with --",
    ),
    (
      ["--config=configs/rl.py:janus_pro_7b"],
      "model.checkpoint is not set: give an HF-format folder with"
      " --config.model.checkpoint=DIR",
    ),
    (
      ["--config=configs/rl.py", "--workdir=main.py/run"],
      "workdir main.py/run cannot be written (Not a directory): give a folder"
      " that can with --workdir=DIR",
    ),
  ],
)
def test_bad_input_ends_in_one_clear_line(args, message):
  status, stderr = main(*args)
  assert status == 1
  assert stderr == f"error: {message}\n"


def test_a_workdir_of_another_config_is_refused_before_anything_loads(tmp_path):
  config = runpy.run_path(str(ROOT / "configs/rl.py"))["get_config"]()
  config.seed = 3
  (tmp_path / "config.json").write_text(config.to_json())
  status, stderr = main("--config=configs/rl.py", f"--workdir={tmp_path}")
  assert status == 1
  assert stderr.startswith(f"error: workdir {tmp_path} belongs to a run of")
  assert stderr.splitlines()[1:] == ["  seed: 3 there, 0 now"]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
