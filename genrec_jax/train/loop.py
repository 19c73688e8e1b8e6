"""Training loop of SFT and RL.

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
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.runtime import checkpoint, distributed, launch, metric_writer
from genrec_jax.runtime import progress as progress_lib
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.train import profile
from genrec_jax.train.throughput import Clock

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LoopInputs:
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
    population: who is evaluated, for the progress line.
    clock: of the steps; None: rates are not known.
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
  clock: Clock | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """When a run does what; config's section `train`.

  Attributes:
    steps: updates in all, over all resumptions.
    log_every: steps between rows of metrics.jsonl.
    eval_every: steps between evaluations; 0 for none. The first is before
      training, the last at the end.
    checkpoint_every: steps between checkpoints; 0 for one at the end only.
    keep: newest checkpoints kept.
    profile: step that is traced; 0 for none.
  """

  steps: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  keep: int
  profile: int = 0

  def logs(self, step: int) -> bool:
    """True where metrics.jsonl gets a row: also of the first and the last."""
    return step % self.log_every == 0 or step in (1, self.steps)

  def evaluates(self, step: int) -> bool:
    """True where held-out users are evaluated."""
    return self.eval_every > 0 and self._due(step, self.eval_every)

  def saves(self, step: int) -> bool:
    """True where a checkpoint is saved: in any case at the end."""
    if self.checkpoint_every == 0:
      return step == self.steps
    return self._due(step, self.checkpoint_every)

  def _due(self, step: int, every: int) -> bool:
    return step % every == 0 or step == self.steps


def run(
  inputs: LoopInputs, schedule: Schedule, *, workdir: str, config_json: str
) -> TrainState:
  """Trains until the schedule's steps are done, resuming what `workdir` holds.

  A run that is stopped at any moment and started again ends in the same
  parameters and the same metrics.jsonl, bit for bit, as one that is not.

  Args:
    inputs: what to train.
    schedule: how long, and when to log, evaluate and save.
    workdir: folder of the run; made if absent.
    config_json: the whole config; a workdir of another is refused.

  Returns:
    The last state.

  Raises:
    UserError: the workdir is unusable, a checkpoint is damaged or cannot be
      written, the data ended, or the loss or the parameters are no longer
      finite.
  """
  workdir_lib.claim(workdir, config_json)
  manager = checkpoint.open_manager(workdir, schedule.keep)
  with checkpoint.closing(manager):
    # Sets the iterator back to where the checkpoint's step left it.
    state = checkpoint.restore(manager, inputs.state, inputs.iterator)
    begun = manager.latest_step()
    writer = metric_writer.Writer(workdir, begun)
    progress = progress_lib.Progress(
      begun or 0, schedule.steps, then="evaluation"
    )
    loop = _Loop(inputs, schedule, manager, writer, progress)
    try:
      state = loop.run(inputs.state if state is None else state, begun)
    finally:
      progress.close()
      writer.close()
  # Outside the block above: all that was saved is whole before the reports.
  inputs.finish(state, inputs.frozen, workdir)
  return state


@dataclasses.dataclass
class _Loop:
  """The loop's open files and the metrics that it has not written yet."""

  inputs: LoopInputs
  schedule: Schedule
  manager: Any  # of checkpoints
  writer: metric_writer.Writer
  progress: progress_lib.Progress
  # Step and metrics of the step just dispatched, still on the device.
  pending: tuple[int, Metrics] | None = None

  def run(self, state: TrainState, begun: int | None) -> TrainState:
    """Takes the steps after `begun`; None: nothing was saved before."""
    start, steps = begun or 0, self.schedule.steps
    if begun is not None:
      self.progress.say(f"resumed at step {begun} of {steps}")
    # A checkpoint is saved after its step's evaluation, so a run that resumes
    # from one has that evaluation behind it.
    if begun is None and self.schedule.evaluates(start):
      self.evaluate(start, state)
    with contextlib.ExitStack() as stack:
      for step in range(start + 1, steps + 1):
        batch = self.next_batch(step)
        # The first call compiles. What moves to the host here would wait for
        # the device.
        with (
          _waiting(step, first=step == start + 1),
          jax.transfer_guard("disallow"),
        ):
          state, values = self.take(step, state, batch)
        if step == start + 1:  # before it compiled there was nothing to save
          stack.enter_context(launch.deferring_sigterm())
        self.write_pending()  # of the step before, while this one runs
        checkpoint.check_saving(self.manager)
        self.pending = (step, values)
        # All processes learn here if one of them was sent SIGTERM.
        stopping = multihost_utils.reached_preemption_sync_point(step)
        if self.schedule.evaluates(step):
          self.evaluate(step, state)
        if stopping or self.schedule.saves(step):
          self.save(step, state)
        self.stop_if(stopping, step)
      if start < steps:
        checkpoint.wait(self.manager)
        # A SIGTERM during the last evaluation stops the run before its reports.
        last = multihost_utils.reached_preemption_sync_point(steps + 1)
        self.stop_if(last, steps)
    if self.inputs.clock and (line := self.inputs.clock.line()):
      self.progress.say(line)
    return state

  def take(
    self, step: int, state: TrainState, batch: PyTree
  ) -> tuple[TrainState, Metrics]:
    """Takes a step, and traces it where that is asked for."""
    args = state, self.inputs.frozen, batch
    if step != self.schedule.profile:
      return self.inputs.step(*args)
    self.write_pending()  # of the step before: this one is waited for
    folder = Path(self.writer.workdir, profile.FOLDER, f"step_{step}")
    taken = profile.take(self.inputs.step, args, folder)
    self.pause_clock()
    self.progress.say(
      f"step {step} is traced: python tools/step_phases.py --trace={folder}"
    )
    return taken

  def next_batch(self, step: int) -> PyTree:
    """Returns the next batch, on the devices."""
    try:
      return self.inputs.put(next(self.inputs.iterator))
    except StopIteration:
      raise UserError(
        f"the data ended after {step - 1} of {self.schedule.steps} steps:"
        " expected an iterator that repeats; prepare more users or lower"
        " train.steps"
      ) from None

  def write_pending(self) -> None:
    """Writes the metrics of the last step taken, once it is done."""
    if self.pending is None:
      return
    # Reading waits for that step, which the device has left behind by now.
    (step, on_device), self.pending = self.pending, None
    headline = self.inputs.headline
    with _waiting(step):
      values = {k: float(v) for k, v in jax.device_get(on_device).items()}
    if values.get("reward/external_dropped") == 1:
      self.refuse(
        f"rewards.external failed for every prompt of step {step}",
        "put what it says above right, and the same command goes on",
      )
    for name in ("loss", "grad_norm", headline):
      if not math.isfinite(values.get(name, 0.0)):
        self.refuse(f"{name} is {values[name]} at step {step}")
    rate = self.progress.step(step, headline, values[headline])
    rates = self.inputs.clock.tick() if self.inputs.clock else {}
    if self.schedule.logs(step):
      self.writer.scalars(step, values)
      if rate is not None:
        self.writer.board(step, {"steps_per_second": rate} | rates)

  def evaluate(self, step: int, state: TrainState) -> None:
    """Evaluates held-out users and writes their metrics and images."""
    self.write_pending()
    self.pause_clock()
    self.progress.say(
      f"step {step}/{self.schedule.steps}  evaluating"
      f" {self.inputs.population} ..."
    )
    values, grid = self.inputs.evaluate(state, self.inputs.frozen)
    values = {f"eval/{k}": float(v) for k, v in values.items()}
    self.writer.scalars(step, values)
    self.writer.image(step, grid)

  def save(self, step: int, state: TrainState) -> None:
    """Starts to save a checkpoint, after the metrics up to it are on disk."""
    self.write_pending()
    # Metrics may be finite where the update was not: never save a NaN.
    if not _finite(state.params):
      self.refuse(f"parameters are not finite after step {step}")
    self.pause_clock()
    self.writer.sync()  # a resumed run cuts metrics back to this step
    checkpoint.save(self.manager, state, self.inputs.iterator)

  def pause_clock(self) -> None:
    """Leaves out of the rates what is no step."""
    if self.inputs.clock:
      self.inputs.clock.pause()

  def stop_if(self, asked: bool, step: int) -> None:
    """Ends the run after a checkpoint if SIGTERM asked for it."""
    if asked:
      checkpoint.wait(self.manager)
      raise UserError(
        f"asked to stop (SIGTERM): step {step} of {self.schedule.steps} is"
        f" saved; {distributed.RESUME}"
      )

  def refuse(
    self,
    problem: str,
    advice: str = (
      "try a lower optim.lr or optim.grad_norm, in another workdir"
    ),
  ) -> NoReturn:
    """Ends a run that has become useless; names its last good checkpoint."""
    checkpoint.wait(self.manager)
    good = self.manager.latest_step()
    folder = os.fspath(self.manager.directory)
    kept = (
      "no checkpoint was saved before it"
      if good is None
      else f"the last good checkpoint is {folder}/{good}"
    )
    raise UserError(f"{problem}: training stopped and {kept}; {advice}")


def _waiting(
  step: int, *, first: bool = False
) -> contextlib.AbstractContextManager[None]:
  """Says how long a step takes; the first one compiles."""
  if first:
    return progress_lib.waiting("compiling the step")
  return progress_lib.waiting(f"taking step {step}", progress_lib.COUNTED)


@jax.jit
def _finite(params: PyTree) -> jax.Array:
  leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
  return jnp.stack(leaves).all()
