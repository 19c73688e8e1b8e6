"""The loop that SFT and RL share.

    restore -> [evaluate -> save -> next batch -> step -> write the metrics of
    the step before] ...

Nothing in it waits for the step just dispatched: its metrics are read one step
later, while the device works on the next.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import math
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.runtime import checkpoint, distributed, launch, metrics
from genrec_jax.runtime import workdir as workdir_lib

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
  """What to train; all functions take arrays that are already on devices.

  Attributes:
    state: where training starts; the loop takes it over (it is donated).
    frozen: what a step reads and never changes.
    step: jitted, (state, frozen, batch) -> (state, metrics), state donated;
      metrics are scalars, among them 'loss' and the headline.
    iterator: grain iterator over host batches, with get_state and set_state;
      of several processes each has its own rows, and all have the same state.
    put: host batch -> device batch.
    evaluate: (state, frozen) -> (metrics, grid uint8 [h, w, 3]); held-out.
    finish: (state, frozen, workdir) -> None; reports at the end.
    headline: the metric on the progress line.
    population: whom `evaluate` is about, such as 'held-out users'.
  """

  state: TrainState
  frozen: PyTree
  step: Callable[[TrainState, PyTree, PyTree], tuple[TrainState, Metrics]]
  iterator: Any
  put: Callable[[PyTree], PyTree]
  evaluate: Callable[[TrainState, PyTree], tuple[Metrics, np.ndarray]]
  finish: Callable[[TrainState, PyTree, str], None]
  headline: str
  population: str = "held-out users"


def run(
  task: Task,
  *,
  workdir: str,
  config_json: str,
  steps: int,
  log_every: int,
  eval_every: int,
  checkpoint_every: int,
  keep: int,
) -> TrainState:
  """Trains until `steps` updates are done, resuming what `workdir` holds.

  A run that is stopped at any moment and started again ends in the same
  parameters and the same metrics.jsonl, bit for bit, as one that is not.

  Args:
    task: what to train.
    workdir: folder of the run; made if absent.
    config_json: the whole config; a workdir of another is refused.
    steps: updates in all, over all resumptions.
    log_every: steps between rows of metrics.jsonl.
    eval_every: steps between evaluations; 0 for none. The first is before
      training, the last at the end.
    checkpoint_every: steps between checkpoints; 0 for one at the end only.
    keep: newest checkpoints kept.

  Returns:
    The last state.

  Raises:
    UserError: the workdir is unusable, a checkpoint is damaged or cannot be
      written, the data ended, or the loss or the parameters are no longer
      finite.
  """
  workdir_lib.claim(workdir, config_json)
  manager = checkpoint.open_manager(workdir, keep)
  with checkpoint.closing(manager):
    state = checkpoint.restore(manager, task.state, task.iterator)
    begun = manager.latest_step()
    writer = metrics.Writer(workdir, begun)
    progress = metrics.Progress(begun or 0, steps, then="evaluation")
    try:
      state = _steps(
        task,
        task.state if state is None else state,
        manager,
        writer,
        progress,
        begun=begun,
        steps=steps,
        log_every=log_every,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
      )
    finally:
      progress.close()
      writer.close()
  task.finish(state, task.frozen, workdir)
  return state


def _steps(
  task: Task,
  state: TrainState,
  manager: Any,
  writer: metrics.Writer,
  progress: metrics.Progress,
  *,
  begun: int | None,
  steps: int,
  log_every: int,
  eval_every: int,
  checkpoint_every: int,
) -> TrainState:
  start = begun or 0
  if begun is not None:
    progress.say(f"resumed at step {begun} of {steps}")
  pending: tuple[int, Metrics] | None = None

  def settle() -> None:
    """Writes the metrics of the last step taken, once it is done."""
    nonlocal pending
    if pending is None:
      return
    (step, values), pending = pending, None
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    for name in ("loss", "grad_norm", task.headline):
      if not math.isfinite(values.get(name, 0.0)):
        _refuse(manager, f"{name} is {values[name]} at step {step}")
    rate = progress.step(step, task.headline, values[task.headline])
    if step % log_every == 0 or step in (1, steps):
      writer.scalars(step, values)
      if rate is not None:
        writer.board(step, {"steps_per_second": rate})

  def evaluate(step: int) -> None:
    settle()
    progress.say(f"step {step}/{steps}  evaluating {task.population} ...")
    values, grid = task.evaluate(state, task.frozen)
    values = {f"eval/{k}": float(v) for k, v in values.items()}
    writer.scalars(step, values)
    writer.image(step, grid)

  def stop_if(asked: bool, step: int) -> None:
    if asked:
      checkpoint.wait(manager)
      raise UserError(
        f"asked to stop (SIGTERM): step {step} of {steps} is saved;"
        f" {distributed.RESUME}"
      )

  # A checkpoint is saved after its step's evaluation, so a run that resumes
  # from one has that evaluation behind it.
  if begun is None and _due(start, eval_every, steps):
    evaluate(start)
  with contextlib.ExitStack() as stack:
    for step in range(start + 1, steps + 1):
      try:
        batch = task.put(next(task.iterator))
      except StopIteration:
        raise UserError(
          f"the data ended after {step - 1} of {steps} steps: expected an"
          " iterator that repeats; prepare more users or lower train.steps"
        ) from None
      with jax.transfer_guard("disallow"):
        state, values = task.step(state, task.frozen, batch)
      if step == start + 1:  # until it was compiled, nothing was to be saved
        stack.enter_context(launch.deferring_sigterm())
      settle()
      checkpoint.check_saving(manager)
      pending = (step, values)
      # Of several processes all learn here that one was sent SIGTERM.
      stopping = multihost_utils.reached_preemption_sync_point(step)
      if _due(step, eval_every, steps):
        evaluate(step)
      if stopping or _due(step, checkpoint_every, steps, last=True):
        settle()
        if not _finite(state.params):
          _refuse(manager, f"parameters are not finite after step {step}")
        writer.sync()
        checkpoint.save(manager, state, task.iterator)
      stop_if(stopping, step)
    if start < steps:
      checkpoint.wait(manager)
      # What came in the last evaluation is not for the reports to swallow.
      last = multihost_utils.reached_preemption_sync_point(steps + 1)
      stop_if(last, steps)
  return state


def _due(step: int, every: int, steps: int, last: bool = False) -> bool:
  if every == 0:
    return last and step == steps
  return step % every == 0 or step == steps


@jax.jit
def _finite(params: PyTree) -> jax.Array:
  leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
  return jnp.stack(leaves).all()


def _refuse(manager: Any, problem: str) -> None:
  checkpoint.wait(manager)
  good = manager.latest_step()
  kept = (
    "no checkpoint was saved before it"
    if good is None
    else f"the last good checkpoint is {os.fspath(manager.directory)}/{good}"
  )
  raise UserError(
    f"{problem}: training stopped and {kept}; try a lower optim.lr or"
    " optim.grad_norm, in another workdir"
  )
