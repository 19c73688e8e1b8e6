"""Asynchronous Orbax checkpoints of a train state and its data iterator.

`workdir/checkpoints/<step>/` holds three items: `params` (trainable only, so
that a reader need not know the optimizer), `optimizer` (with the step) and
`data` (the grain iterator's state, one file per process). A checkpoint appears
under its name only when it is whole; what a killed run left is removed.
"""

import math
import os
from typing import Any

from etils import epath
import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import diff
from genrec_jax.core.types import PyTree, TrainState

FOLDER = workdir_lib.CHECKPOINTS


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
      "data": grain.checkpoint.CheckpointHandler(),
    },
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )


def save(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> None:
  """Starts to save; returns once it is safe to donate the state."""
  manager.save(
    int(state.step),
    args=ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      optimizer=ocp.args.StandardSave(_optimizer(state)),
      data=grain.checkpoint.CheckpointSave(iterator),
    ),
  )


def restore(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> TrainState | None:
  """Reads the newest checkpoint into the shapes and shardings of `state`.

  The iterator is set to where it was. The mesh may differ from the one saved
  from. Arrays of `state` are freed, so that no two states fill the memory.

  Args:
    manager: of the workdir.
    state: of the wanted shapes, types and shardings; values are not read.
    iterator: of the same data set and options.

  Returns:
    The restored state, or None if there is no checkpoint.

  Raises:
    UserError: the parameters saved are not those of `state`.
  """
  step = manager.latest_step()
  if step is None:
    return None
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  problems = diff(abstract.params, manager.item_metadata(step)["params"])
  if problems:
    raise UserError(
      listed(f"checkpoint {manager.directory}/{step} does not fit:", problems)
    )
  jax.tree.map(lambda array: array.delete(), state)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(
      params=ocp.args.StandardRestore(abstract.params),
      optimizer=ocp.args.StandardRestore(_optimizer(abstract)),
      data=grain.checkpoint.CheckpointRestore(iterator),
    ),
  )
  return TrainState(params=restored["params"], **restored["optimizer"])


def latest_step(workdir: str) -> int | None:
  """Returns the newest whole checkpoint's step, None if there is none."""
  folder = os.path.join(workdir, FOLDER)
  if not os.path.isdir(folder):
    return None
  return max(ocp.utils.checkpoint_steps(folder), default=None)


def saved_step(workdir: str) -> int:
  """Returns the newest whole checkpoint's step.

  Raises:
    UserError: there is none.
  """
  step = latest_step(workdir)
  if step is None:
    raise UserError(
      f"{workdir} holds no checkpoint: expected {FOLDER}/<step>; train there"
      " until the first is saved"
    )
  return step


def param_shapes(workdir: str, step: int) -> dict[str, Any]:
  """Returns what `read_params` would read: anything with a shape and a dtype.

  The nested dict has the trained parameters only, to lay over those of
  `config.json`'s base model.
  """
  return ocp.PyTreeCheckpointHandler().metadata(_params(workdir, step)).tree


def read_params(
  workdir: str,
  step: int | None = None,
  shardings: PyTree | None = None,
  dtype: Any = None,
) -> dict[str, Any]:
  """Returns trained parameters of a workdir's checkpoint.

  The host holds no more than the largest of them, or 1 GB, at a time.

  Args:
    workdir: of the run.
    step: of the checkpoint; None means the newest.
    shardings: nested dict of what is to be read, and how it is to be laid out,
      on any mesh; None means all, on one device.
    dtype: of the results; None means as saved.

  Raises:
    UserError: the workdir has no whole checkpoint.
  """
  step = saved_step(workdir) if step is None else step
  shapes = param_shapes(workdir, step)
  if shardings is None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: here, shapes)
  largest = max(
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(shapes)
  )
  reader = ocp.PyTreeCheckpointHandler(
    # Whole GB, and Orbax refuses what is not less.
    restore_concurrent_gb=1 + largest // 10**9
  )
  return reader.restore(
    _params(workdir, step),
    args=ocp.args.PyTreeRestore(
      item=shardings,
      restore_args=jax.tree.map(
        lambda sharding: ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype),
        shardings,
      ),
      partial_restore=True,
    ),
  )


def _params(workdir: str, step: int) -> epath.Path:
  return epath.Path(os.path.abspath(workdir)) / FOLDER / str(step) / "params"


def _optimizer(state: TrainState) -> dict[str, PyTree]:
  return {"step": state.step, "opt_state": state.opt_state}
