import json
import pathlib
import runpy
import types

import pytest

from configs import common
from genrec_jax.core.tree import flatten

ROOT = pathlib.Path(__file__).parents[1]
TASKS = ("sft", "rl", "evaluate")
VARIANTS = ("", *common.VARIANTS)


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
    assert variant in common.VARIANTS


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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", TASKS)
def test_the_same_key_means_the_same_in_every_config(task, variant):
  # What training and its evaluation must agree on.
  ours = flat(load(task).get_config(variant))
  theirs = flat(load("sft").get_config(variant))
  for key in ours.keys() & theirs.keys():
    if key.startswith(("data/", "clip/", "mesh/")) and "batch" not in key:
      assert ours[key] == theirs[key], key
