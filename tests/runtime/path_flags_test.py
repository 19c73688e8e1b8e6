"""Paths of flags and configs: '~', commas; one rule in every command."""

import argparse
import os
import pathlib
import subprocess
import sys

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import path_flags
from tools.hf_inference import flags as torch_flags

ROOT = pathlib.Path(__file__).parents[2]
# Of infer_hf.py, which stands alone, and of all other commands.
BOTH = pytest.mark.parametrize("tool", [path_flags, torch_flags])


def run(code, home):
  done = subprocess.run(
    [sys.executable, "-c", code],
    check=False,
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "HOME": str(home)},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


@BOTH
def test_a_leading_tilde_is_the_home_folder(tool, monkeypatch):
  monkeypatch.setenv("HOME", "/somewhere")
  for path, expected in (
    ("~", "/somewhere"),
    ("~/a b/~", "/somewhere/a b/~"),
    ("./~/a", "./~/a"),
    ("a~", "a~"),
    ("", ""),
  ):
    assert tool.home(path) == expected
  with pytest.raises(
    (UserError, argparse.ArgumentTypeError),
    match=r"~no_one/x: there is no home folder ~no_one; a folder of that name"
    r" is \./~no_one/x",
  ):
    tool.home("~no_one/x")


@BOTH
def test_commas_split_where_they_are_not_part_of_a_file_s_name(
  tool, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in ("a.png", "b, c.png", "d,e,f.png", "f.png", "(1,2)"):
    (tmp_path / name).touch()
  for text, expected in (
    ("", []),
    ("a.png", ["a.png"]),
    ("a.png,f.png", ["a.png", "f.png"]),
    ("a.png, f.png", ["a.png", "f.png"]),
    ("b, c.png", ["b, c.png"]),
    ("a.png,b, c.png,a.png", ["a.png", "b, c.png", "a.png"]),
    ("d,e,f.png,f.png", ["d,e,f.png", "f.png"]),
    ("e,f.png", ["e", "f.png"]),
    ("(1,2),a.png", ["(1,2)", "a.png"]),
    ('"no, such.png",a.png', ["no, such.png", "a.png"]),
    ("~/b, c.png,~/x.png", [f"{tmp_path}/b, c.png", f"{tmp_path}/x.png"]),
    ("no.png,", ["no.png", ""]),
  ):
    assert tool.split_paths(text) == expected, text


def test_every_flag_that_is_a_path_takes_a_tilde(tmp_path):
  code = """
import importlib
import pathlib
from absl import flags
names = {path.stem for path in pathlib.Path("tools").glob("*.py")}
for name in names - {"infer_hf"}:  # which has none of these flags
  before = set(flags.FLAGS)
  importlib.import_module(f"tools.{name}")
  for flag in set(flags.FLAGS) - before - {"config"}:
    try:
      value = flags.FLAGS[flag].parser.parse("~/x")
    except (TypeError, ValueError):  # a number or one of some words
      continue
    if "~" not in str(value):
      print(name, flag, value)
  for flag in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, flag)
"""
  place = f"{tmp_path}/x"
  found = {
    "compare": {"out": place},
    "experiment": {"out": place},
    "make_posters": {"raw": place, "out": place},
    "study": dict.fromkeys(
      ("workdir", "consent", "study", "votes", "out"), place
    ),
    "sweep": {"out": place},
    "export_hf": {"workdir": place, "out": place},
    "generate": {
      "model": place,
      "history": str([place]),
      "out": place,
      "dump": place,
    },
    "prepare_data": dict.fromkeys(
      ("raw", "out", "images", "image_list", "interactions", "titles"), place
    ),
    "make_tiny": {"out": place},
    "compile_check": {"json": place},
    "step_phases": {"trace": place},
  }
  assert sorted(run(code, tmp_path)) == sorted(
    f"{tool} {flag} {value}"
    for tool, values in found.items()
    for flag, value in values.items()
  )


def test_a_config_s_folders_take_a_tilde(tmp_path):
  code = """
import sys
from absl import flags
import main
from genrec_jax.config import flag
keys = ("workdir", *flag.FOLDERS)
sys.argv = ["main.py", "--config=~/rl.py",
            *(f"--config.{key}=~/{key}" for key in keys)]
flag.parse(sys.argv)
for key in keys:
  print(flags.FLAGS.config[key])
"""
  text = (ROOT / "configs/rl.py").read_text()
  (tmp_path / "rl.py").write_text(text)
  found = run(code, tmp_path)
  assert found == [
    # Several are a tuple.
    f"('{tmp_path}/{key}',)"
    if key in ("eval.judges", "rewards.encoders")
    else f"{tmp_path}/{key}"
    for key in (
      "workdir",
      "model.checkpoint",
      "clip.checkpoint",
      "eval.base",
      "eval.judges",
      "rewards.encoders",
      "rewards.quality.checkpoint",
      "eval.quality",
      "data.path",
      "data.prompts",
    )
  ]
