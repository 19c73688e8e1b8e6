"""Asynchronous Orbax checkpoints of a train state and its data iterator.

`workdir/checkpoints/<step>/` holds three items: `params` (trainable only, so
that a reader need not know the optimizer), `optimizer` (with the step) and
`data` (the iterator's state, which is the same in every process). A checkpoint
appears under its name only when it is whole; what a killed run left is removed.
Parameters are written in chunks, so that `open_params` can read them slice by
slice, onto any mesh and into any number of processes. All processes of a run
save and restore together.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import os
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from genrec_jax.core import distributed
from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import diff, flatten, unflatten
from genrec_jax.core.types import PyTree, TrainState

FOLDER = workdir_lib.CHECKPOINTS
# What is written, compressed and read as one; a reader needs no more memory.
CHUNK_BYTES = 2**26


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
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    ),
  )


@contextlib.contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Ends what a manager has begun, if the other processes are still there."""
  try:
    yield
  except BaseException:
    # Closing waits for all processes, and one may be gone.
    if distributed.alone():
      manager.close()
    raise
  manager.close()


def save(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> None:
  """Starts to save; returns once it is safe to donate the state."""
  chunks = ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)
  manager.save(
    int(state.step),
    args=ocp.args.Composite(
      params=ocp.args.StandardSave(
        state.params, jax.tree.map(lambda _: chunks, state.params)
      ),
      optimizer=ocp.args.StandardSave(_optimizer(state)),
      data=ocp.args.JsonSave(iterator.get_state()),
    ),
  )


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
    UserError: the parameters saved are not those of `state`.
  """
  step = manager.latest_step()
  distributed.agree(f"newest checkpoint of {manager.directory}", str(step))
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
      data=ocp.args.JsonRestore(),
    ),
  )
  iterator.set_state(restored["data"])
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


@dataclasses.dataclass(frozen=True)
class Saved:
  """A parameter in a checkpoint; `saved[index]` reads a slice as numpy."""

  folder: str
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, index: Any) -> np.ndarray:
    """Reads a slice and, of the rest, what shares its chunks."""
    # Orbax itself restores whole arrays and holds a shard and more of it on
    # the host; its format is one that TensorStore reads.
    spec = {
      "driver": "zarr",
      "kvstore": {
        "driver": "ocdbt",
        "base": {"driver": "file", "path": f"{self.folder}/"},
        "path": f"{self.name}/",
      },
    }
    context = _context()
    array = tensorstore.open(spec, open=True, read=True, context=context)
    return array.result()[index].read().result()

  def read(self, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """Reads a slice as another type."""
    return np.asarray(self[index], dtype)


@functools.cache
def _context() -> tensorstore.Context:
  # Slices of one chunk are asked for one after another.
  return tensorstore.Context(
    {"cache_pool": {"total_bytes_limit": 2 * CHUNK_BYTES}}
  )


def open_params(workdir: str, step: int | None = None) -> dict[str, Any]:
  """Opens the trained parameters of a workdir's checkpoint, the newest.

  Returns:
    A nested dict of `Saved`: the trainable parameters only, to lay over those
    of `config.json`'s base model.

  Raises:
    UserError: the workdir has no whole checkpoint.
  """
  step = saved_step(workdir) if step is None else step
  folder = os.path.join(os.path.abspath(workdir), FOLDER, str(step), "params")
  found = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
  return unflatten(
    {
      path: Saved(
        folder,
        path.replace("/", "."),
        tuple(leaf.shape),
        np.dtype(leaf.dtype),
      )
      for path, leaf in flatten(found).items()
    }
  )


def _optimizer(state: TrainState) -> dict[str, PyTree]:
  return {"step": state.step, "opt_state": state.opt_state}
