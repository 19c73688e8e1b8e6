"""The opening of a task, on random weights that no file holds."""

from types import SimpleNamespace

import jax
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.evals import opening
from genrec_jax.sampling import Sampling


def test_validation_is_not_what_is_reported_at_the_end(
  tmp_path, monkeypatch, checkpoints, evaluate_config
):
  del checkpoints
  monkeypatch.chdir(tmp_path)
  config = evaluate_config(checkpoint="any")
  config.data.num_users, config.data.held_out = 20, 10
  config.data.history_length = config.data.future_horizon = 2
  config.eval.users, config.eval.batch_size = 8, 4
  inputs = opening.open_inputs(config)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  evaluator = opening.open_evaluator(
    config,
    inputs,
    opening.open_panel(inputs, inputs.clip.shapes, mesh),
    sampling=Sampling(),
    copy_threshold=0.9,
    validation_users=6,
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


@pytest.mark.parametrize(
  ("held_out", "expected"),
  [(True, "held-out users"), (False, "users' held-out last items")],
)
def test_who_is_evaluated_is_said_as_it_is(held_out, expected):
  dataset = SimpleNamespace(index=SimpleNamespace(held_out=held_out))
  assert opening.population(dataset) == expected


def test_what_other_models_open_with_is_as_the_generator(
  tmp_path, monkeypatch, checkpoints, evaluate_config, capsys
):
  """Training sets remat, evaluation does not; both set the compute type."""
  del checkpoints
  monkeypatch.chdir(tmp_path)
  config = evaluate_config(checkpoint="any")
  inputs = opening.open_inputs(config)
  own = {"image_size": 0, "read_size": 0}  # a checkpoint's
  assert inputs.compute == {"dtype": "float32"} | own
  assert inputs.warnings == ()
  assert "warning" not in capsys.readouterr().out
