"""Metrics and samples of a run: metrics.jsonl, TensorBoard, samples/.

`metrics.jsonl` holds one object per row, `{"step": 20, "loss": 0.31, ...}`,
and nothing that depends on the clock, so that a run that was stopped and
resumed writes the same bytes as one that was not. Values of an evaluation have
names that start with 'eval/'.
"""

from collections.abc import Callable
import contextlib
import functools
import json
import math
import os
import time
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.runtime.distributed import first_only

FILE = "metrics.jsonl"
SAMPLES = "samples"


def read(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of a workdir's metrics.jsonl, without a torn last one."""
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    return []
  with open(path) as file:
    lines = file.read().split("\n")
  # What follows the last newline is empty, or torn by a kill.
  return [json.loads(line) for line in lines[:-1]]


def _with_disk_errors(method: Callable[..., None]) -> Callable[..., None]:
  """Turns errors of a disk that is full or gone into one message."""

  @functools.wraps(method)
  def wrapped(self: Any, *args: Any) -> None:
    try:
      method(self, *args)
    except OSError as error:
      raise UserError(
        f"cannot write metrics into {self.workdir} ({error.strerror or error}):"
        " training stopped; make room or put it right, and the same command"
        " goes on from the last checkpoint"
      ) from error

  return wrapped


class Writer:
  """Writes scalars and image grids of a run that goes on from `step`.

  Rows after `step`, left by a run that was killed before its next checkpoint,
  are dropped: they will be written again. `step` is None for a run that starts
  from nothing. Of several processes only the first writes.
  """

  @first_only
  @_with_disk_errors
  def __init__(self, workdir: str, step: int | None):
    self.workdir = workdir
    # Step 0 has a row, of the evaluation before training: -1 is before it.
    last = -1 if step is None else step
    rows = [row for row in read(workdir) if row["step"] <= last]
    path = os.path.join(workdir, FILE)
    files.write(path, "".join(json.dumps(row) + "\n" for row in rows))
    self._file = open(path, "a")  # noqa: SIM115, closed by `close`
    # Without the thread of tensorboardX's own writer: where that has died, of
    # a full disk, the next writes wait for it for ever.
    self._board = EventsWriter(os.path.join(workdir, "events"))
    started = SessionLog(status=SessionLog.START)
    self._event(last + 1, session_log=started)  # later ones are void
    self._samples = os.path.join(workdir, SAMPLES)

  @first_only
  @_with_disk_errors
  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Appends a row to metrics.jsonl and its values to TensorBoard.

    JSON knows no NaN: a value that is not finite is written as null.
    """
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()  # for those who follow the file; `sync` is for disks
    self.board(step, values)

  @first_only
  @_with_disk_errors
  def board(self, step: int, values: dict[str, float]) -> None:
    """Sends values to TensorBoard only, such as those that time a run."""
    for name, value in values.items():
      self._event(step, summary=summary.scalar(name, value))
    self._board.flush()

  @first_only
  @_with_disk_errors
  def image(self, step: int, grid: np.ndarray) -> None:
    """Writes a uint8 [h, w, 3] to samples/<step>.png and TensorBoard."""
    os.makedirs(self._samples, exist_ok=True)
    path = os.path.join(self._samples, f"{step:06d}.png")
    with files.replacing(path) as partial:
      Image.fromarray(grid).save(partial, format="png")
    shown = summary.image(SAMPLES, grid, dataformats="HWC")
    self._event(step, summary=shown)

  @first_only
  @_with_disk_errors
  def sync(self) -> None:
    """Flushes metrics.jsonl to the disk."""
    os.fsync(self._file.fileno())
    self._board.flush()

  @first_only
  def close(self) -> None:
    """Closes the files; `sync` has flushed what must last."""
    for file in (self._file, self._board):
      with contextlib.suppress(OSError):
        file.close()

  def _event(self, step: int, **content: Any) -> None:
    event = Event(wall_time=time.time(), step=step, **content)
    self._board.write_event(event)
