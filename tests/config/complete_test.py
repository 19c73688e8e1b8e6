"""What a run adds to its config before it starts."""

import json

import pytest

from configs import evaluate as evaluate_config
from configs import rl as rl_config
from configs import sft as sft_config
from genrec_jax.config import checks, complete
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import workdir as workdir_lib


def trained(folder, model=None, **data):
  """Makes a workdir whose run was of other settings of its model or data."""
  config = sft_config.get_config("debug")
  config.model.update(model or {})
  config.data.update(data)
  folder.mkdir()
  (folder / workdir_lib.CONFIG).write_text(config.to_json())
  return str(folder)


def test_a_run_takes_over_the_data_of_its_checkpoint(tmp_path, capsys):
  source = trained(tmp_path / "sft", instruction="Next, please.", num_users=7)
  config = evaluate_config.get_config("debug")
  config.model.checkpoint, config.workdir = source, str(tmp_path / "new")
  complete.inherit_data(config, set())
  assert config.data.instruction == "Next, please."
  assert config.data.num_users == 7
  assert f"as {source} was trained: " in capsys.readouterr().out


def test_rewards_of_titles_fit_a_checkpoint_that_writes_them(tmp_path, capsys):
  source = trained(tmp_path / "sft", {"answer": "title_image"})
  config = rl_config.get_config("debug")
  config.model.checkpoint, config.workdir = source, str(tmp_path / "new")
  config.rewards.consistency.weight = 0.5
  with pytest.raises(UserError, match="expected 0, as answers have no title"):
    checks.check(config)
  complete.inherit_answer(config, set())
  checks.check(config)
  said = f"as {source} was trained: model.answer='title_image'"
  assert said in capsys.readouterr().out


def test_prompts_that_the_command_line_changes_are_printed(tmp_path, capsys):
  source = trained(tmp_path / "sft", history_length=3)
  config = sft_config.get_config("debug")
  config.model.checkpoint, config.workdir = source, str(tmp_path / "new")
  config.data.history_length = 4
  complete.inherit_data(config, {"data.history_length"})
  assert config.data.history_length == 4
  assert (
    "prompts differ from those that"
    f" {source} was trained on: data.history_length was 3, is 4"
  ) in capsys.readouterr().out


def test_existing_folders_become_absolute_and_names_stay(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "model").mkdir()
  config = sft_config.get_config("debug")
  config.model.checkpoint = "model"
  config.eval.judges = ("tiny_sft", "model")
  complete.make_absolute(config)
  assert config.model.checkpoint == str(tmp_path / "model")
  assert config.eval.judges == ("tiny_sft", str(tmp_path / "model"))
  assert config.clip.checkpoint == "tiny_clip"


def test_fingerprints_are_recorded_for_training_only():
  config = sft_config.get_config("debug")
  complete.add_fingerprints(config)
  recorded = json.loads(config.to_json())
  for section, key in (("model", "checkpoint_sha256"), ("data", "sha256")):
    assert isinstance(recorded[section][key], str)
  config = evaluate_config.get_config("debug")
  complete.add_fingerprints(config)
  assert "checkpoint_sha256" not in config.model
