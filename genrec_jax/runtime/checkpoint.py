"""Asynchronous Orbax checkpoints of a train state and its data iterator.

`workdir/checkpoints/<step>/` holds three items: `params` (trainable only, so
that a reader need not know the optimizer; their average where one is kept),
`optimizer` (with the step, and what else goes on training: the parameters
behind an average, a reference that is reset) and `data` (the iterator's state,
which is the same in every process). A checkpoint appears under its name only
when it is whole; what a killed run left is removed.
Parameters are written in chunks, so that `open_params` can read them slice by
slice, onto any mesh and into any number of processes. All processes of a run
save and restore together.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import logging
import os
import re
import shutil
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from genrec_jax.core.errors import UserError, listed, one_line
from genrec_jax.core.tree import diff
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.runtime import distributed
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.runtime.checkpoint_damage import reading

FOLDER = workdir_lib.CHECKPOINTS
# What is written, compressed and read as one; a reader needs no more memory.
CHUNK_BYTES = 2**26
_DISK_FULL = re.compile(
  "RESOURCE_EXHAUSTED|No space left|quota exceeded", re.IGNORECASE
)


def open_manager(workdir: str, keep: int) -> ocp.CheckpointManager:
  """Opens a workdir's checkpoints for writing; close it when done.

  Args:
    workdir: of the run.
    keep: how many of the newest checkpoints stay, >= 1.
  """
  return ocp.CheckpointManager(
    os.path.join(os.path.abspath(workdir), FOLDER),
    item_handlers={
      "params": ocp.StandardCheckpointHandler(),
      "optimizer": ocp.StandardCheckpointHandler(),
      "data": ocp.JsonCheckpointHandler(),
    },
    # A temporary folder is what a killed run left: nothing else writes here,
    # for the run holds the workdir's lock.
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )


@contextlib.contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Closes the manager; after an error, only if no other process is needed."""
  # Of a failed save's many errors the first is reported, by `_saving`; those of
  # its other arrays would be printed by asyncio, which nothing else here uses.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  hook = sys.unraisablehook
  sys.unraisablehook = functools.partial(_report, hook)
  try:
    yield
  except BaseException:
    # Closing waits for all processes, and one may be gone.
    if distributed.is_single_process():
      with contextlib.suppress(Exception):  # the first error is the reason
        manager.close()
    raise
  with _saving(manager):
    manager.close()  # waits for the save that goes on
  sys.unraisablehook = hook


def _report(hook: Callable[[Any], None], unraisable: Any) -> None:
  """Passes errors on to `hook`, apart from those that a failed save leaves.

  The first array that cannot be written closes the event loop of a save, to
  which TensorStore's threads then report each of the others.
  """
  if str(unraisable.exc_value) != "Event loop is closed":
    hook(unraisable)


def save(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> None:
  """Starts a save; returns once it is safe to donate the state.

  Raises:
    UserError: this save, or the one before, cannot be written.
  """
  # Of the parameters only: nobody reads a slice of the optimizer's state.
  chunks = ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)
  with _saving(manager):
    manager.save(
      int(state.step),
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(
          state.shown, jax.tree.map(lambda _: chunks, state.shown)
        ),
        optimizer=ocp.args.StandardSave(_optimizer(state)),
        data=ocp.args.JsonSave(iterator.get_state()),
      ),
    )


def wait(manager: ocp.CheckpointManager) -> None:
  """Waits for the save that goes on.

  Raises:
    UserError: it cannot be written.
  """
  with _saving(manager):
    manager.wait_until_finished()


def check_saving(manager: ocp.CheckpointManager) -> None:
  """Checks, without waiting, that the save that goes on has not failed.

  Raises:
    UserError: it has; the next save, perhaps hours later, would find out.
  """
  with _saving(manager):
    manager.check_for_errors()


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Turns the errors of a failed save, of many kinds, into one message."""
  try:
    yield
  except Exception as error:  # of Orbax, TensorStore or the system
    folder = os.fspath(manager.directory)
    steps = ocp.utils.checkpoint_steps(folder)
    kept = (
      f"the last whole one is {folder}/{max(steps)}"
      if steps
      else "none was saved before"
    )
    free = shutil.disk_usage(folder).free
    why = (
      f"the disk is full, {free / 1e9:.1f} GB are left"
      if _DISK_FULL.search(str(error))
      else f"{type(error).__name__}: {one_line(error)}"
    )
    raise UserError(
      f"cannot save a checkpoint in {folder} ({why}): training stopped, and"
      f" {kept}; make room or put it right, and the same command goes on"
    ) from error


def restore(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> TrainState | None:
  """Reads the newest checkpoint into the shapes and shardings of `state`.

  The iterator is set to where it was. Mesh and number of processes may differ
  from those saved from. Arrays of `state` are freed, so that no two states fill
  the memory.

  Args:
    manager: of the workdir.
    state: of the wanted shapes, types and shardings; values are not read.
    iterator: of the same data set and options.

  Returns:
    The restored state, or None if there is no checkpoint.

  Raises:
    UserError: the parameters saved are not those of `state`, or the checkpoint
      is damaged.
  """
  step = manager.latest_step()
  distributed.assert_same_everywhere(
    f"newest checkpoint of {manager.directory}", str(step)
  )
  if step is None:
    return None
  # The wanted layout, kept beyond the arrays that it is read from.
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  folder = os.path.join(os.fspath(manager.directory), str(step))

  def compare() -> list[str]:
    return diff(abstract.params, manager.item_metadata(step)["params"].tree)

  def read() -> TrainState:
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        optimizer=ocp.args.StandardRestore(_optimizer(abstract)),
        data=ocp.args.JsonRestore(),
      ),
    )
    iterator.set_state(restored["data"])
    # With an average of the parameters, theirs are with the optimizer.
    shown, others = restored["params"], dict(restored["optimizer"])
    if "params" in others:
      return TrainState(ema=shown, **others)
    return TrainState(params=shown, **others)

  problems = reading(folder, compare)
  if problems:
    raise UserError(listed(f"checkpoint {folder} does not fit:", problems))
  # From here on there is no way back to `state`, so the check came before.
  jax.tree.map(lambda array: array.delete(), state)
  return reading(folder, read)


def saved_step(workdir: str) -> int:
  """Returns the newest whole checkpoint's step.

  Raises:
    UserError: there is none.
  """
  step = workdir_lib.newest_step(workdir)
  if step is None:
    raise UserError(
      f"{workdir} holds no checkpoint: expected {FOLDER}/<step>; train there"
      " until the first is saved"
    )
  return step


def _optimizer(state: TrainState) -> dict[str, PyTree]:
  """Returns what goes on training and nobody else reads."""
  found = {"step": state.step, "opt_state": state.opt_state}
  if state.ema is not None:
    found["params"] = state.params
  if state.reference is not None:
    found["reference"] = state.reference
  return found
