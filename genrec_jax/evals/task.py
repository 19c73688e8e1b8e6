"""The evaluation task: one checkpoint, and those it was trained from."""

import os
from typing import Any

import jax
from jax.sharding import NamedSharding

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError, listed
from genrec_jax.evals import calibration, lineage, opening, results
from genrec_jax.runtime import distributed, inheritance, progress
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.sampling import Sampling


def run(config: Any, workdir: str) -> None:
  """Evaluates `config.model.checkpoint`; see configs/evaluate.py.

  The table has a row for each model that the checkpoint, if it is a workdir,
  was trained from; see `lineage`.

  Raises:
    UserError: a checkpoint, data set, mesh or workdir that does not fit.
  """
  mesh = mesh_lib.make_mesh(**config.mesh)
  mesh_lib.check_batch(mesh, **{"eval.batch_size": config.eval.batch_size})
  _check_data(config)
  inputs = opening.open_inputs(config)  # no weights yet: errors come soon
  distributed.say(f"evaluating on {inputs.dataset.path}")
  generator = inputs.generator
  specs = sharding.specs(generator.rules, generator.shapes)
  models = lineage.open_models(
    lineage.existing(lineage.lineage(config.model.checkpoint)),
    generator,
    # Nothing here is trained: no need to shard over the data axis.
    sharding.checked_shardings(
      mesh, sharding.drop_axis("data", specs), generator.shapes
    ),
    **inputs.compute,
  )
  # CLIP is small next to the generator: a copy on every device.
  replicated = NamedSharding(mesh, sharding.REPLICATED)
  clip_params = inputs.clip.read(
    jax.tree.map(lambda _: replicated, inputs.clip.shapes)
  )
  with progress.waiting("reading held-out users"):
    evaluator = opening.open_evaluator(
      config,
      inputs,
      opening.open_panel(inputs, clip_params, mesh),
      sampling=Sampling(**config.sample),
      copy_threshold=config.eval.copy_threshold,
    )
  # Only now: a command that was refused leaves no folder.
  workdir_lib.claim(workdir, config.to_json())

  # Calibration takes the first model's weights, which are read anyway; `pop`
  # leaves them to the comparison alone, which then frees them.
  name, read = models[0]
  with progress.waiting("measuring the copy threshold"):
    first = [read()]
    evaluator = calibration.calibrated(evaluator, first[0])
  models[0] = (name, first.pop)
  results.write(workdir, evaluator, evaluator.compare(models))


def _check_data(config: Any) -> None:
  """Refuses to show a model other prompts, or users it was trained on.

  Another data set, in `data.path`, is the reader's choice.
  """
  path = config.model.checkpoint
  if not os.path.exists(os.path.join(path, workdir_lib.CONFIG)):
    return
  theirs = workdir_lib.read_config(path).get("data", {})  # of the training
  keys = list(inheritance.PROMPT_KEYS)
  # Of another data set, the world's keys say nothing.
  if theirs.get("path") == config.data.path:
    keys += inheritance.WORLD_KEYS
  problems = [
    f"data.{key}: {theirs[key]!r} there, {config.data[key]!r} now"
    for key in keys
    if key in theirs and theirs[key] != config.data[key]
  ]
  if problems:
    raise UserError(
      listed(
        f"{path} was trained with other data settings, which would change what"
        " its prompts look like or who is held out; give its own with"
        " --config.data.KEY=VALUE:",
        problems,
      )
    )
