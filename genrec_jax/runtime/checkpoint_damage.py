"""Messages about damaged checkpoints: the damage, and what to do."""

from collections.abc import Callable
import gc
import json
import os
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore

from genrec_jax.core.errors import UserError, one_line

_ARRAYS = ("params", "optimizer")  # items that TensorStore holds


def reading(folder: str, function: Callable[[], Any]) -> Any:
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
  """Returns the message about a damaged checkpoint `checkpoints/<step>`."""
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
  """Returns the first part of a checkpoint that cannot be read, or ''."""
  try:
    for item in _ARRAYS:
      for name in ("_METADATA", "manifest.ocdbt"):
        path = os.path.join(folder, item, name)
        if not os.path.getsize(path):
          return f"{item}/{name} is empty"
      # Reading all values checks their checksums; listing would not.
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
