"""Processes of one run: their indices, and values that they share.

Each runs the same program on the devices of its machine. The first writes the
files; all enter what computes, evaluates or saves. Alone, everything here costs
nothing. `runtime.launch` starts and ends them.
"""

from collections.abc import Callable
import functools
import hashlib
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree

RESUME = "start all of them again with the same command: it resumes"


def is_single_process() -> bool:
  """Returns True if this run is one process."""
  # Asked in this order: the count alone would start JAX's backends, after
  # which `launch.start` could join no other process.
  return not jax.distributed.is_initialized() or jax.process_count() == 1


def index() -> int:
  """Returns the index of this process in the run, from 0."""
  return 0 if is_single_process() else jax.process_index()


def is_first() -> bool:
  """Returns True in the process that writes files and prints."""
  return index() == 0


def first_only(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `function` for process 0; the others get None and do nothing."""

  @functools.wraps(function)
  def wrapped(*args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs) if is_first() else None

  return wrapped


@first_only
def say(text: str) -> None:
  """Prints a line, once for all processes."""
  print(text, flush=True)


def barrier(name: str) -> None:
  """Waits until all processes have called it with this name."""
  if not is_single_process():
    multihost_utils.sync_global_devices(name)


def allgather_scalar(value: Any) -> list[Any]:
  """Returns the number or bool that each process passes, by its index."""
  if is_single_process():
    return [value]
  return multihost_utils.process_allgather(np.asarray(value)).tolist()


def assert_same_everywhere(what: str, text: str) -> None:
  """Checks that `text` is equal on all processes.

  Raises:
    UserError: on all processes, naming those whose text is not the first's.
  """
  # 31 bits of it: what travels is an array, and int32 without x64.
  digest = hashlib.sha256(text.encode()).digest()
  numbers = allgather_scalar(int.from_bytes(digest[:4], "big") >> 1)
  # All processes see the same numbers, so all raise, or none.
  others = [i for i, number in enumerate(numbers) if number != numbers[0]]
  if others:
    raise UserError(
      f"{what} differs between process 0 and process"
      f" {', '.join(map(str, others))}: expected the same command, software and"
      " files for all"
    )


def to_host(array: Any) -> np.ndarray:
  """Returns a whole array on the host; all processes call it."""
  if isinstance(array, jax.Array) and not (
    array.is_fully_addressable or array.is_fully_replicated
  ):
    # Parts of it lie on other machines: a collective, so all must call it.
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def put_global(sharding: jax.sharding.Sharding, tree: PyTree) -> PyTree:
  """Returns global arrays of numpy arrays that every process holds whole."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x, x.shape), tree
  )


def local_rows(sharding: jax.sharding.Sharding, size: int) -> np.ndarray:
  """Returns the indices of the rows that this process's devices hold, sorted.

  Processes that share examples, as tensor parallelism over several of them
  does, hold the same ones.
  """
  places = sharding.addressable_devices_indices_map((size,)).values()
  # Devices that split something else than examples hold the same rows: once.
  return np.unique(np.concatenate([np.arange(size)[index] for index in places]))
