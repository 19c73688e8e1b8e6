"""Every command of the README names files, variants and keys that exist."""

import importlib.util
import pathlib
import re
import shlex

import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text().replace("\\\n", " ")
COMMANDS = sorted(
  {
    line.split(" #")[0].strip()
    for line in TEXT.splitlines()
    if line.startswith("    ") and re.search(r"\b(python|pip) ", line)
  }
)


def _config(path, variant):
  spec = importlib.util.spec_from_file_location("config", ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


def test_there_are_commands():
  assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
  config = None
  for word in shlex.split(command):
    if word.endswith((".py", ".txt")) and "=" not in word:
      assert (ROOT / word).is_file(), word
    if match := re.fullmatch(r"--config=([^:]+):?(\w*)", word):
      config = _config(*match.groups())
    elif match := re.match(r"--config\.([\w.]+)=", word):
      node = config
      for key in match[1].split("."):
        assert key in node, word
        node = node[key]


def test_its_python_generates(tmp_path, monkeypatch):
  """In the folder of two images, as a reader would run it."""
  for name in ("a", "b"):
    Image.new("RGB", (40, 50), "red").save(tmp_path / f"{name}.png")
  monkeypatch.chdir(tmp_path)
  [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
  names: dict = {}
  exec(code, names)
  images = np.asarray(names["images"])
  assert images.shape == (1, 4, 32, 32, 3)
  assert images.min() >= 0
  assert images.max() <= 1
  assert images.std() > 0.05  # something is to be seen
