"""Rewards that a config may not name, and their encoders."""

import pytest

from genrec_jax.config import judges, rewarding
from genrec_jax.hf.locate import ASSETS
from tests.config.checks_test import get_config, said


def encoders(*paths):
  return rewarding.problems({"encoders": paths}, "tiny_clip")


def test_none_bundled_ones_and_names_on_the_hub():
  assert encoders() == []
  assert encoders("tiny_sft", "facebook/dinov2-base") == []


@pytest.mark.parametrize("paths", ["tiny_sft", ["a"], (1,), ("",), None])
def test_the_form(paths):
  (problem,) = rewarding.problems({"encoders": paths}, "tiny_clip")
  assert "rewards.encoders is " in problem
  assert "expected a tuple of folders" in problem


def test_an_encoder_that_is_absent_twice_there_or_clip_itself(tmp_path):
  assert "no model at 'tiny_x'" in encoders("tiny_x")[0]
  clip = str(ASSETS / "tiny_clip")
  (problem,) = rewarding.problems({"encoders": (clip, "tiny_sft")}, clip)
  assert "is clip.checkpoint, which rewards anyway" in problem
  for name in ("a", "b"):
    (tmp_path / name / "same").mkdir(parents=True)
  (problem,) = encoders(str(tmp_path / "a/same"), str(tmp_path / "b/same"))
  assert "2 encoders are called 'same'" in problem
  (tmp_path / "quality").mkdir()
  (problem,) = encoders(str(tmp_path / "quality"))
  assert "may not be called 'quality'" in problem


def test_quality_needs_a_checkpoint_where_it_has_a_weight():
  without = {"rewards.quality.checkpoint": ""}
  assert not said(get_config(without))
  weighted = without | {"rewards.quality.weight": 1.0}
  assert "rewards.quality.checkpoint is not set: expected a CLIP folder" in (
    said(get_config(weighted))
  )
  weighted["rewards.quality.checkpoint"] = "tiny_x"
  assert "rewards.quality.checkpoint: no model at 'tiny_x'" in (
    said(get_config(weighted))
  )


@pytest.mark.parametrize(
  ("function", "message"),
  [
    ("", "'' names no function: expected 'module:function'"),
    ("nowhere_at_all:f", "'nowhere_at_all:f' cannot be imported (ModuleNot"),
    ("math:nothing", "'math:nothing' cannot be imported (AttributeError"),
    ("math:pi", "'math:pi' is 3.14"),
  ],
)
def test_an_external_reward_is_a_function_that_can_be_imported(
  function, message
):
  named = {"rewards.external.function": function}
  assert not said(get_config(named))  # its weight is 0
  found = said(get_config(named | {"rewards.external.weight": 0.1}))
  assert found.startswith(f"rewards.external.function: {message}")


def test_what_rewards_may_not_judge():
  section = {"encoders": ("a/b",), "quality": {"weight": 0.5}}
  section["quality"]["checkpoint"] = "c/d"
  found = rewarding.folders(section)
  assert found == {
    "a/b": "rewards.encoders",
    "c/d": "rewards.quality.checkpoint",
  }
  for path in ("a/b", "c/d"):
    (problem,) = judges.problems((path,), "tiny_clip", found)
    assert f"{path} is {found[path]}, which rewards" in problem
  section["quality"]["weight"] = 0.0
  assert "c/d" not in rewarding.folders(section)


def test_prompts_have_no_users_to_compare_with():
  given = {"data.prompts": "a.txt"}
  assert said(get_config(given)) == (
    "data.prompts is 'a.txt', without users and what they saw: give"
    " --config.rewards.future.weight=0 --config.rewards.copy.weight=0; text,"
    " quality, diversity and external are left"
  )
  for name in ("future", "copy"):
    given[f"rewards.{name}.weight"] = 0.0
  assert not said(get_config(given))
  assert "expected one of them" in said(get_config(given | {"data.path": "b"}))
  assert "expected task 'rl' or 'evaluate'" in (
    said(get_config({"data.prompts": "a.txt"}, "sft"))
  )
