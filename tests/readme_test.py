"""Every command of the README names files, variants and keys that exist."""

import importlib.util
import pathlib
import re
import shlex

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
