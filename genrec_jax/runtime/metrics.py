"""What a run writes while it goes: metrics.jsonl, TensorBoard, samples, a line.

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
import sys
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


def _told(method: Callable[..., None]) -> Callable[..., None]:
  """Turns a full disk, or one that is gone, into one line."""

  @functools.wraps(method)
  def wrapped(self, *args):
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
  @_told
  def __init__(self, workdir: str, step: int | None):
    self.workdir = workdir
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
  @_told
  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Appends a row to metrics.jsonl and its values to TensorBoard.

    JSON knows no NaN: a value that is not finite is written as null.
    """
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    self.board(step, values)

  @first_only
  @_told
  def board(self, step: int, values: dict[str, float]) -> None:
    """Sends values to TensorBoard only, such as those that time a run."""
    for name, value in values.items():
      self._event(step, summary=summary.scalar(name, value))
    self._board.flush()

  @first_only
  @_told
  def image(self, step: int, grid: np.ndarray) -> None:
    """Writes a uint8 [h, w, 3] to samples/<step>.png and TensorBoard."""
    os.makedirs(self._samples, exist_ok=True)
    path = os.path.join(self._samples, f"{step:06d}.png")
    with files.replacing(path) as partial:
      Image.fromarray(grid).save(partial, format="png")
    shown = summary.image(SAMPLES, grid, dataformats="HWC")
    self._event(step, summary=shown)

  @first_only
  @_told
  def sync(self) -> None:
    """Makes sure that what was written outlives the machine."""
    os.fsync(self._file.fileno())
    self._board.flush()

  @first_only
  def close(self) -> None:
    """Closes the files; what should last was written out by `sync`."""
    for file in (self._file, self._board):
      with contextlib.suppress(OSError):
        file.close()

  def _event(self, step: int, **content: Any) -> None:
    event = Event(wall_time=time.time(), step=step, **content)
    self._board.write_event(event)


class _Line:
  """A line that is rewritten in place on a terminal.

  Elsewhere a line is printed every `every` seconds. Of several processes only
  the first prints.
  """

  def __init__(self, every: float):
    self._terminal = sys.stdout.isatty()
    self._every = 0.2 if self._terminal else every
    self._printed = -float("inf")
    self._open = False  # the cursor is at the end of a line to rewrite

  @first_only
  def say(self, text: str) -> None:
    """Prints a line of its own."""
    print(("\r\033[K" if self._open else "") + text, flush=True)
    self._open = False

  @first_only
  def close(self) -> None:
    """Ends a line that was to be rewritten."""
    if self._open:
      print(flush=True)
    self._open = False

  def _due(self, now: float) -> bool:
    """Returns whether it is time for the next line, and notes that."""
    due = now - self._printed >= self._every
    if due:
      self._printed = now
    return due

  def _rewrite(self, text: str) -> None:
    if self._terminal:
      print(f"\r\033[K{text}", end="", flush=True)
      self._open = True
    else:
      self.say(text)


def _duration(seconds: float) -> str:
  seconds = int(seconds)
  return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class Progress(_Line):
  """Prints 'step 20/400  3.1 steps/s  ETA 0:02:03  loss 0.31'.

  A line is printed after the first step, and at the end, however little time
  has passed. `then` is what follows the last step, and is not in the ETA.
  """

  def __init__(
    self, start: int, steps: int, every: float = 10.0, then: str = ""
  ):
    super().__init__(every)
    self._start, self._steps, self._then = start, steps, then
    self._begun = time.monotonic()
    self._first: float | None = None

  @first_only
  def step(self, step: int, name: str, value: float) -> float | None:
    """Reports that `step` is done; returns steps per second, once known.

    The first step compiles, so it does not count for the rate; evaluations
    and saves do, which makes the ETA honest.
    """
    now, rate = time.monotonic(), None
    if self._first is None:
      self._first = now
      speed = f"first step {now - self._begun:.1f} s (compiles)"
    else:
      done = step - self._start - 1
      rate = done / max(now - self._first, 1e-9)
      eta = _duration((self._steps - step) / rate)
      then = f", then {self._then}" if self._then else ""
      speed = f"{rate:.2f} steps/s  ETA {eta}{then}"
    due = self._due(now)
    line = f"step {step}/{self._steps}  {speed}  {name} {value:.4g}"
    if step == self._steps:
      self.say(line)
    elif due:
      self._rewrite(line)
    return rate


class Tally(_Line):
  """Prints 'evaluating sft: 320/3072 users  ETA 0:00:41'.

  On a terminal the line disappears at the end; elsewhere nothing is printed of
  what takes less than `every` seconds.

  Args:
    total: how many there are to do.
    unit: what is counted.
    every: seconds between lines where there is no terminal.
  """

  def __init__(self, total: int, unit: str, every: float = 10.0):
    super().__init__(every)
    self._total, self._unit = total, unit
    self._done = 0
    self._first: tuple[int, float] | None = None
    if not self._terminal:
      self._printed = time.monotonic()

  @first_only
  def add(self, label: str, count: int) -> None:
    """Reports that `count` more are done, of what `label` says."""
    now = time.monotonic()
    self._done += count
    eta = ""
    if self._first is None:  # compiles, so it does not count for the rate
      self._first = (self._done, now)
    else:
      done, since = self._first
      rate = (self._done - done) / max(now - since, 1e-9)
      eta = f"  ETA {_duration((self._total - self._done) / rate)}"
    if self._due(now):
      self._rewrite(f"{label}: {self._done}/{self._total} {self._unit}{eta}")

  @first_only
  def clear(self) -> None:
    """Removes the line."""
    if self._open:
      print("\r\033[K", end="", flush=True)
    self._open = False
