"""Several processes that are one run: who is who, and what all must share.

Each runs the same program on the devices of its machine. The first writes the
files; all enter what computes, evaluates or saves. Alone, everything here costs
nothing. `core.launch` starts and ends them.
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


def alone() -> bool:
  """Tells whether this run is one process."""
  return not jax.distributed.is_initialized() or jax.process_count() == 1


def index() -> int:
  """Returns which process of the run this is, from 0."""
  return 0 if alone() else jax.process_index()


def is_first() -> bool:
  """Tells whether this is the process that writes files and prints."""
  return index() == 0


def first_only(function: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a function that does nothing, and returns None, but in the first."""

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    return function(*args, **kwargs) if is_first() else None

  return wrapped


@first_only
def say(text: str) -> None:
  """Prints a line, once for all processes."""
  print(text, flush=True)


def wait(name: str) -> None:
  """Returns when all processes have come here."""
  if not alone():
    multihost_utils.sync_global_devices(name)


def gather(value: Any) -> list[Any]:
  """Returns what each process gave: a number or a bool, by their index."""
  if alone():
    return [value]
  return multihost_utils.process_allgather(np.asarray(value)).tolist()


def agree(what: str, text: str) -> None:
  """Refuses to go on with something that must be the same everywhere.

  Raises:
    UserError: in all processes, naming those whose text is not the first's.
  """
  digest = hashlib.sha256(text.encode()).digest()
  numbers = gather(int.from_bytes(digest[:4], "big") >> 1)
  others = [i for i, number in enumerate(numbers) if number != numbers[0]]
  if others:
    raise UserError(
      f"{what} differs between process 0 and process"
      f" {', '.join(map(str, others))}: expected the same command, software and"
      " files for all"
    )


def fetch(array: Any) -> np.ndarray:
  """Returns a whole array on the host of every process, which all call."""
  if isinstance(array, jax.Array) and not (
    array.is_fully_addressable or array.is_fully_replicated
  ):
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def put_whole(sharding: jax.sharding.Sharding, tree: PyTree) -> PyTree:
  """Puts on devices what every process holds whole, as numpy arrays."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x, x.shape), tree
  )


def local_rows(sharding: jax.sharding.Sharding, size: int) -> np.ndarray:
  """Returns which rows of `size` the devices of this process hold, in order.

  Processes that share examples, as tensor parallelism over several of them
  does, hold the same ones.
  """
  places = sharding.addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([np.arange(size)[index] for index in places]))
