"""Judges that a config may not name."""

import shutil

import pytest

from genrec_jax.config import judges
from genrec_jax.hf.locate import ASSETS
from tests.config.checks_test import get_config, said


def test_none_bundled_ones_folders_and_names_on_the_hub(tmp_path):
  folder = tmp_path / "mine"
  folder.mkdir()
  paths = ("tiny_sft", str(folder), "facebook/dinov2-base")
  assert judges.problems((), "tiny_clip") == []
  assert judges.problems(paths, "tiny_clip") == []


@pytest.mark.parametrize("paths", ["tiny_sft", ["a"], (1,), ("",), None])
def test_the_form(paths):
  (problem,) = judges.problems(paths, "tiny_clip")
  assert "expected a tuple of folders" in problem


def test_a_folder_that_is_not_there():
  (problem,) = judges.problems(("tiny_juge",), "tiny_clip")
  assert "no model at 'tiny_juge'" in problem
  assert "\n" not in problem
  # Where there is a folder `owner`, the path is mistyped.
  (problem,) = judges.problems((f"{ASSETS}/none",), "tiny_clip")
  assert "no model at" in problem


@pytest.mark.parametrize("clip", ["tiny_clip", str(ASSETS / "tiny_clip")])
def test_the_reward_s_own_clip(clip):
  problem, *rest = judges.problems((clip,), clip)
  assert "is clip.checkpoint, which rewards" in problem
  assert not rest


def test_two_of_one_name_and_names_that_are_taken(tmp_path):
  for name in ("a/dino", "b/dino", "b/clip", "b/-", "b/quality-x"):
    (tmp_path / name).mkdir(parents=True)
  two = (str(tmp_path / "a/dino"), str(tmp_path / "b/dino"))
  (problem,) = judges.problems(two, "tiny_clip")
  assert "2 judges are called 'dino'" in problem
  (problem,) = judges.problems((str(tmp_path / "b/clip"),), "tiny_clip")
  assert "may not be called 'clip'" in problem
  (problem,) = judges.problems((str(tmp_path / "b/-"),), "tiny_clip")
  assert "nameless" in problem
  (problem,) = judges.problems((str(tmp_path / "b/quality-x"),), "tiny_clip")
  assert "which names a rater of eval.quality" in problem


def test_quality():
  hub = "yuvalkirstain/PickScore_v1"
  for good in ("", hub, "tiny_clip"):
    assert not said(get_config({"eval.quality": good}))
  found = said(get_config({"eval.quality": "pick"}))
  assert found.startswith("eval.quality: no model at 'pick'")


@pytest.mark.parametrize("task", ["sft", "rl", "evaluate"])
def test_a_config_is_checked(task, tmp_path):
  assert not said(get_config({"eval.judges": ("tiny_sft",)}, task))
  assert "no model at 'x'" in said(get_config({"eval.judges": ("x",)}, task))
  copy = tmp_path / "tiny_clip"
  shutil.copytree(ASSETS / "tiny_clip", copy)
  assert not said(get_config({"eval.judges": (str(copy),)}, task))
