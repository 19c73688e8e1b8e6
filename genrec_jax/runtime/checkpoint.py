"""Asynchronous Orbax checkpoints of a train state and its data iterator.

`workdir/checkpoints/<step>/` holds three items: `params` (trainable only, so
that a reader need not know the optimizer), `optimizer` (with the step) and
`data` (the iterator's state, which is the same in every process). A checkpoint
appears under its name only when it is whole; what a killed run left is removed.
Parameters are written in chunks, so that `open_params` can read them slice by
slice, onto any mesh and into any number of processes. All processes of a run
save and restore together.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import gc
import json
import logging
import os
import re
import shutil
import sys
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from genrec_jax.core.errors import UserError, listed, one_line
from genrec_jax.core.tree import diff, flatten, unflatten
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.runtime import distributed
from genrec_jax.runtime import workdir as workdir_lib

FOLDER = workdir_lib.CHECKPOINTS
# What is written, compressed and read as one; a reader needs no more memory.
CHUNK_BYTES = 2**26
_ARRAYS = ("params", "optimizer")  # items that TensorStore holds
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
    manager.close()
  sys.unraisablehook = hook


def _report(hook: Callable[[Any], None], unraisable: Any) -> None:
  """Passes an error on to `hook`, but for those that a failed save leaves.

  The first array that cannot be written closes the event loop of a save, to
  which TensorStore's threads then report each of the others.
  """
  if str(unraisable.exc_value) != "Event loop is closed":
    hook(unraisable)


def save(
  manager: ocp.CheckpointManager, state: TrainState, iterator: Any
) -> None:
  """Starts to save; returns once it is safe to donate the state.

  Raises:
    UserError: this save, or the one before, cannot be written.
  """
  chunks = ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)
  with _saving(manager):
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


def wait(manager: ocp.CheckpointManager) -> None:
  """Returns when what was begun is saved.

  Raises:
    UserError: it cannot be written.
  """
  with _saving(manager):
    manager.wait_until_finished()


def check_saving(manager: ocp.CheckpointManager) -> None:
  """Returns at once, unless a save that goes on meanwhile has failed.

  Raises:
    UserError: it has; the next save, perhaps hours later, would find out.
  """
  with _saving(manager):
    manager.check_for_errors()


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
  """Turns what a failed save raises, of many kinds, into one line."""
  try:
    yield
  except Exception as error:
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
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  folder = os.path.join(os.fspath(manager.directory), str(step))

  def compare():
    return diff(abstract.params, manager.item_metadata(step)["params"].tree)

  def read():
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

  problems = _read(folder, compare)
  if problems:
    raise UserError(listed(f"checkpoint {folder} does not fit:", problems))
  jax.tree.map(lambda array: array.delete(), state)
  return _read(folder, read)


def _read(folder: str, function: Callable[[], Any]) -> Any:
  """Returns `function()`, which reads a checkpoint `checkpoints/<step>`.

  Raises:
    UserError: it is damaged, which raises errors of many kinds.
  """
  try:
    return function()
  except (UserError, MemoryError, jax.errors.JaxRuntimeError):
    raise  # the latter is of devices, such as their memory
  except Exception as error:
    why = one_line(error)
  # Orbax leaves coroutines, each of which would complain when it is let go.
  hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
  gc.collect()
  sys.unraisablehook = hook
  raise UserError(_damaged(folder, _unreadable(folder) or why))


def _damaged(folder: str, why: str) -> str:
  """Says what to do about a damaged checkpoint `checkpoints/<step>`."""
  parent, newest = os.path.split(folder)
  for step in sorted(ocp.utils.checkpoint_steps(parent), reverse=True):
    if step < int(newest) and not _unreadable(os.path.join(parent, str(step))):
      return (
        f"checkpoint {folder} is damaged ({why}): remove that folder, and the"
        f" same command uses {parent}/{step}, the last whole one"
      )
  return (
    f"checkpoint {folder} is damaged ({why}), and there is no whole one before"
    " it: put back a copy of it, or train again in another workdir"
  )


def _unreadable(folder: str) -> str:
  """Reads all of a checkpoint; returns what cannot be read, '' if nothing."""
  try:
    for item in _ARRAYS:
      for name in ("_METADATA", "manifest.ocdbt"):
        path = os.path.join(folder, item, name)
        if not os.path.getsize(path):
          return f"{item}/{name} is empty"
      base = {"driver": "file", "path": f"{os.path.join(folder, item)}/"}
      spec = {"driver": "ocdbt", "base": base}
      store = tensorstore.KvStore.open(spec).result()
      for key in store.list().result():
        # Of a file that is gone TensorStore returns no bytes and no error.
        if not store.read(key).result().value:
          return f"{item}: the file that holds {key.decode()} is missing"
    with open(os.path.join(folder, "data", "metadata")) as file:
      json.load(file)
  except OSError as error:
    where = os.path.relpath(error.filename or folder, folder)
    return f"{where}: {error.strerror or error}"
  except ValueError as error:  # of TensorStore and of JSON
    return one_line(error)
  return ""


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
class SavedParam:
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

    def read():
      array = tensorstore.open(spec, open=True, read=True, context=context)
      return array.result()[index].read().result()

    return _read(os.path.dirname(self.folder), read)

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
    A nested dict of `SavedParam`: the trainable parameters only, to lay over
    those of `config.json`'s base model.

  Raises:
    UserError: the workdir has no whole checkpoint.
  """
  step = saved_step(workdir) if step is None else step
  folder = os.path.join(os.path.abspath(workdir), FOLDER, str(step), "params")
  found = _read(
    os.path.dirname(folder),
    lambda: flatten(
      ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    ),
  )
  return unflatten(
    {
      path: SavedParam(
        folder,
        path.replace("/", "."),
        tuple(leaf.shape),
        np.dtype(leaf.dtype),
      )
      for path, leaf in found.items()
    }
  )


def _optimizer(state: TrainState) -> dict[str, PyTree]:
  return {"step": state.step, "opt_state": state.opt_state}
