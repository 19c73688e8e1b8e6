"""The task from config to report, on random weights that no file holds."""

import importlib.util
import json
import pathlib
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.evals import opening, per_user, task
from genrec_jax.evals.judge import Judge
from genrec_jax.hf import load
from genrec_jax.models.janus import RULES
from genrec_jax.sampling import Sampling

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = len(testing.word_tokenizer())


def _janus(width=16):
  return testing.tiny_janus(image_size=32, vocab_size=VOCABULARY, width=width)


def _config(**checkpoint):
  path = ROOT / "configs" / "evaluate.py"
  spec = importlib.util.spec_from_file_location("evaluate_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("debug")
  config.model.update(checkpoint)
  return config


def _workdir(path, **config):
  path.mkdir()
  (path / "config.json").write_text(json.dumps(config))
  return str(path)


@pytest.fixture
def checkpoints(monkeypatch):
  """Replaces loading.

  Returns {path: width}, the paths of another vocabulary, and what was read.
  """
  sizes, others, loaded = {}, [], []

  def open_generator(path, *, dtype):
    assert dtype == "float32"
    model = _janus(sizes.get(str(path), 16))
    processor = testing.TinyProcessor()
    if path in others:
      processor.tokenizer.add_tokens(["word"])

    def read(shardings):
      loaded.append(str(path))
      return jax.device_put(
        testing.random_params(model, len(loaded), 0.1), shardings
      )

    return SimpleNamespace(
      model=model,
      processor=processor,
      source=path,
      rules=RULES,
      shapes=jax.eval_shape(model.init, jax.random.key(0)),
      read=read,
    )

  def open_clip(path, *, dtype):
    del path, dtype
    clip = testing.tiny_clip(
      image_size=32, vocab_size=VOCABULARY, max_position_embeddings=12
    )
    params = testing.random_params(clip, 9, 0.1)
    return SimpleNamespace(
      clip=clip,
      tokenizer=testing.word_tokenizer(12),
      shapes=params,
      read=lambda shardings: jax.device_put(params, shardings),
    )

  monkeypatch.setattr(load, "open_generator", open_generator)
  monkeypatch.setattr(load, "open_clip", open_clip)
  return sizes, others, loaded


def test_run_compares_a_workdir_with_what_it_came_from(
  tmp_path, monkeypatch, checkpoints, capsys
):
  monkeypatch.chdir(tmp_path)  # the synthetic data goes to runs/data
  (tmp_path / "first").mkdir()
  sft = _workdir(tmp_path / "sft", task="sft", model={"checkpoint": "first"})
  rl = _workdir(
    tmp_path / "rl",
    task="rl",
    model={"checkpoint": sft},
    eval={"base": "first"},
  )
  task.run(_config(checkpoint=rl), str(tmp_path / "out"))
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
  assert "8 users" in capsys.readouterr().out
  assert checkpoints[-1] == ["first", sft, rl]  # each once
  # The same place serves the evaluation of another model.
  shutil.rmtree("first")
  task.run(_config(checkpoint=sft), str(tmp_path / "out"))
  summary = json.loads((tmp_path / "out" / "summary.json").read_text())
  assert list(summary["models"])[:2] == ["sft", "real_next_item"]
  assert "no row 'base' in the table" in capsys.readouterr().out


def test_run_refuses_rows_that_do_not_compare(
  tmp_path, monkeypatch, checkpoints
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
    sft = _workdir(
      tmp_path / f"sft_{name}", task="sft", model={"checkpoint": name}
    )
    with pytest.raises(UserError, match=message):
      task.run(_config(checkpoint=sft), str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()
  assert not loaded


def test_run_refuses_other_data_than_it_was_trained_on(tmp_path):
  def workdir(name, **data):
    return _workdir(tmp_path / name, task="sft", data=data)

  config = _config(checkpoint=workdir("here", path="", held_out=7, seed=0))
  with pytest.raises(UserError) as error:
    task.run(config, str(tmp_path / "out"))
  assert str(error.value).splitlines()[1:] == [
    "  data.held_out: 7 there, 16 now"
  ]
  # The world's keys mean nothing where the data is another's, prompts do.
  config = _config(
    checkpoint=workdir("there", path="/x", held_out=7, history_length=2)
  )
  with pytest.raises(UserError) as error:
    task.run(config, str(tmp_path / "out"))
  assert str(error.value).splitlines()[1:] == [
    "  data.history_length: 2 there, 5 now"
  ]


def test_validation_is_not_what_is_reported_at_the_end(
  tmp_path, monkeypatch, checkpoints
):
  del checkpoints
  monkeypatch.chdir(tmp_path)
  config = _config(checkpoint="any")
  config.data.num_users, config.data.held_out = 20, 10
  config.data.history_length = config.data.future_horizon = 2
  config.eval.users, config.eval.batch_size = 8, 4
  inputs = opening.open_inputs(config)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  judge = Judge(
    inputs.clip.clip, inputs.clip.shapes, inputs.clip.tokenizer, 0.9, mesh
  )
  evaluator = opening.open_evaluator(
    config, inputs, judge, sampling=Sampling(), validation_users=6
  )
  counts = [[held.count for held in evaluator.test]]
  counts.append([held.count for held in evaluator.validation])
  assert counts == [[4, 4], [4, 2]]

  def targets(batches):
    return {
      name: held.batch.future[row].tobytes()
      for held in batches
      for row, name in enumerate(held.names)
    }

  last, middle = targets(evaluator.test), targets(evaluator.validation)
  shared = last.keys() & middle.keys()
  assert shared
  assert all(last[name] != middle[name] for name in shared)


def test_run_refuses_a_batch_the_devices_do_not_divide(tmp_path, checkpoints):
  del checkpoints
  config = _config(checkpoint="tiny_sft")
  config.eval.batch_size = 3
  with pytest.raises(UserError, match=r"eval\.batch_size=3"):
    task.run(config, str(tmp_path / "out"))


@pytest.mark.parametrize(
  ("held_out", "expected"),
  [(True, "held-out users"), (False, "users' held-out last items")],
)
def test_who_is_evaluated_is_said_as_it_is(held_out, expected):
  dataset = SimpleNamespace(index=SimpleNamespace(held_out=held_out))
  assert opening.population(dataset) == expected
