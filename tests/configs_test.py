import json
import pathlib
import re
import runpy
import types

import pytest

from genrec_jax.core.tree import flatten

ROOT = pathlib.Path(__file__).parents[1]
TASKS = ("sft", "rl", "evaluate")
VARIANTS = ("", "debug", "janus_pro_1b", "janus_pro_7b")


def load(task):
  """Returns the names that a config file defines."""
  path = ROOT / "configs" / f"{task}.py"
  return types.SimpleNamespace(**runpy.run_path(str(path)))


def flat(config):
  return flatten(json.loads(config.to_json()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_variant_has_the_keys_and_types_of_the_default(task, variant):
  module = load(task)
  default, config = flat(module.get_config()), flat(module.get_config(variant))
  assert config.keys() == default.keys()
  assert {k: type(v) for k, v in config.items()} == {
    k: type(v) for k, v in default.items()
  }
  assert config["task"] == task
  if variant:
    assert config["workdir"].endswith(f"_{variant}")
    assert variant in module.VARIANTS


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_variant_is_refused(task):
  with pytest.raises(ValueError, match=r"unknown variant .x. .*janus_pro_1b"):
    load(task).get_config("x")


@pytest.mark.parametrize("task", TASKS)
def test_defaults_come_with_the_package(task):
  config = load(task).get_config()
  for name in {
    config.model.checkpoint,
    config.clip.checkpoint,
    config.eval.get("base", "tiny_base"),
  }:
    assert name.startswith("tiny_")


@pytest.mark.parametrize("task", TASKS)
def test_the_same_key_means_the_same_in_every_config(task):
  # What training and its evaluation must agree on.
  ours, theirs = flat(load(task).get_config()), flat(load("sft").get_config())
  for key in ours.keys() & theirs.keys():
    if key.startswith(("data/", "clip/", "mesh/")) and "batch" not in key:
      assert ours[key] == theirs[key], key


@pytest.mark.parametrize("task", TASKS)
def test_every_key_is_read_somewhere(task):
  """A key is read as config.a.b, or by name from the section passed whole."""
  text = "\n".join(
    path.read_text()
    for path in [ROOT / "main.py", *(ROOT / "genrec_jax").rglob("*.py")]
  )
  unused = []
  for path in flat(load(task).get_config()):
    section, _, key = path.rpartition("/")
    direct = re.escape(f"config.{path.replace('/', '.')}") + r"\b"
    whole = rf"config\.{section}\b(?!\.)" if section else r"(?!)"
    named = rf"\b{key}\b\s*[:=,)]|\.{key}\b|[\"']{key}[\"']"
    if re.search(direct, text):
      continue
    if not (re.search(whole, text) and re.search(named, text)):
      unused.append(path)
  assert not unused
