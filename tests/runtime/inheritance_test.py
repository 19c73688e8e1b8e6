import json

import pytest

from genrec_jax.runtime import inheritance


def save(folder):
  (folder / "checkpoints" / "2").mkdir(parents=True)


DATA = {
  "path": "",
  "history_length": 5,
  "instruction": "draw",
  "short_histories": "pad",
  "num_users": 9,
  "seed": 0,
}


def inherited(tmp_path, theirs, given=(), own=None, **ours):
  """Returns what a run takes over from a checkpoint trained on `theirs`."""
  for name, data in (("sft", theirs), ("own", own)):
    if data is not None:
      (tmp_path / name).mkdir(parents=True)
      text = json.dumps({"data": DATA | data})
      (tmp_path / name / "config.json").write_text(text)
      save(tmp_path / name)
  config = {
    "model": {"checkpoint": str(tmp_path / "sft")},
    "data": DATA | ours,
  }
  given = {f"data.{key}" for key in (*ours, *given)}
  return inheritance.inherited_data(config, given, str(tmp_path / "own"))


def test_a_run_goes_on_with_the_data_of_its_checkpoint(tmp_path):
  theirs = {"path": "/p", "history_length": 2, "num_users": 7}
  assert inherited(tmp_path, theirs) == (
    {"path": "/p", "history_length": 2, "num_users": 7},
    str(tmp_path / "sft"),
  )


@pytest.mark.parametrize(
  ("ours", "expected"),
  [
    ({"path": "/q"}, {"history_length": 2}),
    ({"path": "synthetic"}, {"path": "", "history_length": 2}),
    ({"history_length": 3}, {"path": "/p", "num_users": 7}),
  ],
)
def test_the_command_line_says_otherwise(tmp_path, ours, expected):
  theirs = {"path": "/p", "history_length": 2, "num_users": 7}
  assert inherited(tmp_path, theirs, **ours)[0] == expected


def test_the_world_of_a_checkpoint_is_found_again(tmp_path):
  theirs = {"num_users": 7, "seed": 3}
  assert inherited(tmp_path, theirs)[0] == theirs
  ours = {"path": "synthetic"}
  assert inherited(tmp_path / "x", theirs, **ours)[0] == theirs | {"path": ""}


def test_a_run_begun_before_this_rule_goes_on_with_its_own(tmp_path):
  # It was trained on the world, from a model that knew another data set.
  assert inherited(tmp_path, {"path": "/p"}, own={"path": ""})[0] == {}


def test_a_model_that_is_no_workdir_has_no_data(tmp_path):
  (tmp_path / "sft").mkdir()
  (tmp_path / "sft" / "config.json").write_text('{"model_type": "janus"}')
  assert inherited(tmp_path, None) == ({}, "")
  found = inherited(tmp_path, None, path="synthetic")
  assert found == ({"path": ""}, "")


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ((), {"answer": "title_image", "title_tokens": 9}),
    (("model.answer",), {"title_tokens": 9}),
    (("model.answer", "model.title_tokens"), {}),
  ],
)
def test_a_run_goes_on_with_the_answers_of_its_checkpoint(
  tmp_path, given, expected
):
  source = tmp_path / "sft"
  source.mkdir()
  theirs = {"answer": "title_image", "title_tokens": 9, "dtype": "bfloat16"}
  (source / "config.json").write_text(json.dumps({"model": theirs}))
  save(source)
  own = {"checkpoint": str(source), "answer": "image", "title_tokens": 16}
  found, _ = inheritance.inherited_answer(
    {"model": own}, set(given), str(tmp_path / "own")
  )
  assert found == expected
  # A run from before there were titles, and a folder that is no run.
  (source / "config.json").write_text(json.dumps({"data": {}}))
  for checkpoint in (str(source), "tiny_sft"):
    config = {"model": own | {"checkpoint": checkpoint}}
    assert inheritance.inherited_answer(config, set(), "")[0] == {}
