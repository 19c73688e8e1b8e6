"""The task from config to report, on random weights that no file holds."""

import json
import shutil

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals import per_user, task


def test_run_compares_a_workdir_with_what_it_came_from(
  tmp_path, monkeypatch, checkpoints, capsys, evaluate_config, workdir_of
):
  monkeypatch.chdir(tmp_path)  # the synthetic data goes to runs/data
  (tmp_path / "first").mkdir()
  sft = workdir_of(tmp_path / "sft", task="sft", model={"checkpoint": "first"})
  rl = workdir_of(
    tmp_path / "rl",
    task="rl",
    model={"checkpoint": sft},
    eval={"base": "first"},
  )
  task.run(evaluate_config(checkpoint=rl), str(tmp_path / "out"))
  summary = json.loads((tmp_path / "out" / "summary.json").read_text())
  assert summary["users"] == 8
  assert list(summary["models"])[:3] == ["base", "sft", "rl"]
  assert list(summary["shuffled"]) == ["sft", "rl"]
  assert "preference_match" in summary["models"]["rl"]
  assert (tmp_path / "out" / "report.html").exists()
  assert summary["population"] == "held-out users"
  assert "rl - sft" in summary["differences"]
  ceiling = summary["models"]["vq_ceiling"]
  assert ceiling.keys() == summary["models"]["real_next_item"].keys()
  users, rows = per_user.read(str(tmp_path / "out"))
  assert len(users) == 8
  for name, row in summary["models"].items():
    for metric, cell in row.items():
      mean = np.nanmean(rows[name][metric])
      assert mean == pytest.approx(cell["mean"]), (name, metric)
  assert (tmp_path / "out" / "config.json").exists()
  out = capsys.readouterr().out
  assert "8 users" in out
  assert (
    out.count("with their own VQ reconstruction a CLIP") == 1
  )  # calibrated, and once
  assert checkpoints[-1] == ["first", sft, rl]  # each once
  # The same place serves the evaluation of another model.
  shutil.rmtree("first")
  task.run(evaluate_config(checkpoint=sft), str(tmp_path / "out"))
  summary = json.loads((tmp_path / "out" / "summary.json").read_text())
  assert list(summary["models"])[:2] == ["sft", "real_next_item"]
  assert "no row 'base' in the table" in capsys.readouterr().out


def test_run_refuses_rows_that_do_not_compare(
  tmp_path, monkeypatch, checkpoints, evaluate_config, workdir_of
):
  monkeypatch.chdir(tmp_path)
  sizes, others, loaded = checkpoints
  for name in ("first", "second"):
    (tmp_path / name).mkdir()
  sizes["first"] = 32
  others.append("second")
  for name, message in (
    ("first", r"base, first: Janus\("),
    ("second", "base, second: another vocabulary"),
  ):
    sft = workdir_of(
      tmp_path / f"sft_{name}", task="sft", model={"checkpoint": name}
    )
    with pytest.raises(UserError, match=message):
      task.run(evaluate_config(checkpoint=sft), str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()
  assert not loaded


def test_run_refuses_other_data_than_it_was_trained_on(
  tmp_path, evaluate_config, workdir_of
):
  def workdir(name, **data):
    return workdir_of(tmp_path / name, task="sft", data=data)

  config = evaluate_config(
    checkpoint=workdir("here", path="", held_out=7, seed=0)
  )
  with pytest.raises(UserError) as error:
    task.run(config, str(tmp_path / "out"))
  assert str(error.value).splitlines()[1:] == [
    "  data.held_out: 7 there, 16 now"
  ]
  # The world's keys mean nothing where the data is another's, prompts do.
  config = evaluate_config(
    checkpoint=workdir("there", path="/x", held_out=7, history_length=2)
  )
  with pytest.raises(UserError) as error:
    task.run(config, str(tmp_path / "out"))
  assert str(error.value).splitlines()[1:] == [
    "  data.history_length: 2 there, 5 now"
  ]


def test_run_refuses_a_batch_the_devices_do_not_divide(
  tmp_path, checkpoints, evaluate_config
):
  del checkpoints
  config = evaluate_config(checkpoint="tiny_sft")
  config.eval.batch_size = 3
  with pytest.raises(UserError, match=r"eval\.batch_size=3"):
    task.run(config, str(tmp_path / "out"))
