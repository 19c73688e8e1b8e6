"""What a run writes while it goes: metrics.jsonl, TensorBoard, samples, a line.

`metrics.jsonl` holds one object per row, `{"step": 20, "loss": 0.31, ...}`,
and nothing that depends on the clock, so that a run that was stopped and
resumed writes the same bytes as one that was not. Values of an evaluation have
names that start with 'eval/'.
"""

import json
import math
import os
import sys
import time
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.distributed import first_only

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


class Writer:
  """Writes scalars and image grids of a run that goes on from `step`.

  Rows after `step`, left by a run that was killed before its next checkpoint,
  are dropped: they will be written again. `step` is None for a run that starts
  from nothing. Of several processes only the first writes.
  """

  @first_only
  def __init__(self, workdir: str, step: int | None):
    last = -1 if step is None else step
    rows = [row for row in read(workdir) if row["step"] <= last]
    path = os.path.join(workdir, FILE)
    workdir_lib.write(path, "".join(json.dumps(row) + "\n" for row in rows))
    self._file = open(path, "a")  # noqa: SIM115, closed by `close`
    self._board = SummaryWriter(workdir, purge_step=last + 1)
    self._samples = os.path.join(workdir, SAMPLES)

  @first_only
  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Appends a row to metrics.jsonl and its values to TensorBoard.

    JSON knows no NaN: a value that is not finite is written as null.
    """
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    self.board(step, values)

  @first_only
  def board(self, step: int, values: dict[str, float]) -> None:
    """Sends values to TensorBoard only, such as those that time a run."""
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  @first_only
  def image(self, step: int, grid: np.ndarray) -> None:
    """Writes a uint8 [h, w, 3] to samples/<step>.png and TensorBoard."""
    os.makedirs(self._samples, exist_ok=True)
    path = os.path.join(self._samples, f"{step:06d}.png")
    Image.fromarray(grid).save(f"{path}.tmp", format="png")
    os.replace(f"{path}.tmp", path)
    self._board.add_image(SAMPLES, grid, step, dataformats="HWC")

  @first_only
  def sync(self) -> None:
    """Makes sure that what was written outlives the machine."""
    os.fsync(self._file.fileno())
    self._board.flush()

  @first_only
  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    self._board.close()


class Progress:
  """Prints 'step 20/400  3.1 steps/s  ETA 0:02:03  loss 0.31'.

  On a terminal the line is rewritten in place; elsewhere a line is printed
  after the first step, then every `every` seconds, and at the end. Of several
  processes only the first prints.
  """

  def __init__(self, start: int, steps: int, every: float = 10.0):
    self._start, self._steps = start, steps
    self._terminal = sys.stdout.isatty()
    self._every = 0.2 if self._terminal else every
    self._begun = time.monotonic()
    self._first: float | None = None
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
      seconds = int((self._steps - step) / rate)
      eta = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
      speed = f"{rate:.2f} steps/s  ETA {eta}"
    if now - self._printed >= self._every or step == self._steps:
      self._printed = now
      line = f"step {step}/{self._steps}  {speed}  {name} {value:.4g}"
      if self._terminal and step < self._steps:
        print(f"\r\033[K{line}", end="", flush=True)
        self._open = True
      else:
        self.say(line)
    return rate
