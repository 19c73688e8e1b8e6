"""Run of a training task: the loop, then the comparison of models."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genrec_jax.core import tree
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.evals import alarm, results
from genrec_jax.train import loop
from genrec_jax.train.build import RunParts
from genrec_jax.train.throughput import Clock, Work


def train(
  config: Any,
  workdir: str,
  parts: RunParts,
  step: Callable,
  *,
  headline: str,
  work: Work,
) -> None:
  """Trains, then compares the trained model with those it came from.

  Args:
    config: of the run.
    workdir: of the run.
    parts: see `build`; its state is donated to the first step.
    step: (state, frozen, batch) -> (state, metrics), to be jitted.
    headline: the metric on the progress line.
    work: of a step.
  """
  evaluator = parts.evaluator

  def whole(state: TrainState, frozen: PyTree) -> PyTree:
    return tree.merge(state.shown, frozen["generator_rest"])

  # Its first evaluation is in the workdir, where a resumed run finds it.
  watch = alarm.Watch(workdir, seed=evaluator.seed)

  def evaluate(
    state: TrainState, frozen: PyTree
  ) -> tuple[dict[str, float], np.ndarray]:
    found = evaluator.midrun(whole(state, frozen))
    rang = watch.look(int(jax.device_get(state.step)), found.seen)
    return found.metrics | rang, found.grid

  def finish(state: TrainState, frozen: PyTree, workdir: str) -> None:
    # What only training needs makes room for the compared models.
    only_training = [
      state.opt_state,
      frozen.get("reference", ()),
      state.reference,
      () if state.ema is None else state.params,
    ]
    for array in jax.tree.leaves(only_training):
      array.delete()
    # Last in the table, whose order is that of training.
    trained = (config.task, whole(state, frozen))
    comparison = evaluator.compare([*parts.models, trained])
    results.write(workdir, evaluator, comparison)

  # `config` ends here: below are values and arrays.
  loop.run(
    loop.LoopInputs(
      state=parts.state,
      frozen=parts.frozen,
      step=parts.plan.jit(step),
      iterator=parts.iterator,
      put=parts.plan.put,
      evaluate=evaluate,
      finish=finish,
      headline=headline,
      population=evaluator.population,
      clock=Clock(work, list(parts.plan.mesh.devices.flat)),
    ),
    loop.Schedule(**config.train),
    workdir=workdir,
    config_json=config.to_json(indent=2),
  )
