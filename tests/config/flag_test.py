"""The flag --config: from any folder, with a config's own imports."""

import os
import subprocess
import sys
import textwrap

from genrec_jax.core.tree import flatten
from tests.configs_test import ROOT


def run(tmp_path, code, *args):
  """Runs a script in another folder than the config's; returns its output."""
  script = tmp_path / "elsewhere" / "script.py"
  script.parent.mkdir(exist_ok=True)
  script.write_text(textwrap.dedent(code))
  return subprocess.run(
    [sys.executable, str(script), *args],
    cwd=script.parent,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


CODE = """
    from absl import app
    from genrec_jax.config import flag
    CONFIG = flag.define()

    def main(_):
      print(CONFIG.value.workdir, CONFIG.value.seed)
      print(flag.variant(), sorted(flag.given_keys()))

    app.run(main, flags_parser=flag.parse)
"""


def test_a_config_of_anywhere_imports_its_neighbours(tmp_path):
  """As `from configs import common` does, without a path of the caller's."""
  folder = tmp_path / "repository" / "settings"
  folder.mkdir(parents=True)
  (folder / "shared.py").write_text("WORKDIR = 'runs/mine'\n")
  (folder / "mine.py").write_text(
    "from ml_collections import ConfigDict\n"
    "from settings import shared\n"
    "def get_config(variant=''):\n"
    "  sections = ('model', 'clip', 'data', 'eval')\n"
    "  config = ConfigDict({name: {} for name in sections})\n"
    "  config.workdir, config.seed = shared.WORKDIR, 0\n"
    "  return config\n"
  )
  done = run(
    tmp_path, CODE, f"--config={folder}/mine.py:big", "--config.seed=3"
  )
  assert done.stdout.splitlines() == ["runs/mine 3", "big ['seed']"], (
    done.stderr
  )
  # A path relative to where the command runs does as well.
  done = run(tmp_path, CODE, "--config", "../repository/settings/mine.py")
  assert done.stdout.splitlines() == ["runs/mine 0", " []"], done.stderr


def test_an_unknown_key_is_named(tmp_path):
  done = run(
    tmp_path, CODE, f"--config={ROOT}/configs/rl.py", "--config.optim.lrr=1"
  )
  assert done.returncode == 1
  assert done.stderr.endswith(
    "error: unknown config key 'optim.lrr': did you mean lr?\n"
  )


def test_folders_are_keys_of_some_config():
  from configs import rl
  from genrec_jax.config import flag

  keys = flatten(rl.get_config().to_dict(), sep=".")
  assert set(flag.FOLDERS) <= keys.keys()


def test_the_home_folder_of_each_of_several_paths(tmp_path):
  code = CODE.replace(
    "print(CONFIG.value.workdir", "print(CONFIG.value.eval.judges"
  )
  done = run(
    tmp_path,
    code,
    f"--config={ROOT}/configs/rl.py",
    "--config.eval.judges=('~/a', 'b')",
  )
  home = os.path.expanduser("~")
  assert f"('{home}/a', 'b')" in done.stdout, done.stderr
