"""Progress lines on a terminal or in a log: steps, rates and the time left.

In a log a line is due some seconds after the last one of any kind: work in many
short parts, each too quick for a line of its own, is not silent for longer than
one long part.
"""

from collections.abc import Iterator
import contextlib
import shutil
import sys
import threading
import time

from genrec_jax.runtime.distributed import first_only

# Seconds of `waiting` for one of many that `Progress` or `Tally` counts: more
# than theirs, so that their line, which has an ETA, comes first where it can.
COUNTED = 15.0


class _Last:
  """The last line of progress that the process printed."""

  at = time.monotonic()  # none yet


def _silent() -> float:
  """Returns for how many seconds nothing has been printed."""
  return time.monotonic() - _Last.at


def _print(text: str, end: str = "\n") -> None:
  """Prints a sign of progress."""
  print(text, end=end, flush=True)
  _Last.at = time.monotonic()


class _Line:
  """A line that is rewritten in place on a terminal.

  Elsewhere a line is printed once nothing was for `every` seconds. Of several
  processes only the first prints.
  """

  def __init__(self, every: float, *, at_once: bool):
    """`at_once`: the first line is due whenever the last was printed."""
    self._terminal = sys.stdout.isatty()
    # A terminal is watched; a log is kept, so its lines are few.
    self._every = 0.2 if self._terminal else every
    self._at_once = at_once
    self._open = False  # the cursor is at the end of a line to rewrite

  @first_only
  def say(self, text: str) -> None:
    """Prints a line of its own."""
    # Back to the line's start and clear it: ANSI, as every terminal knows.
    _print(("\r\033[K" if self._open else "") + text)
    self._open = False

  @first_only
  def close(self) -> None:
    """Ends a line that was to be rewritten."""
    if self._open:
      print(flush=True)
    self._open = False

  @first_only
  def clear(self) -> None:
    """Removes the line that was to be rewritten."""
    if self._open:
      print("\r\033[K", end="", flush=True)
    self._open = False

  def _due(self) -> bool:
    """Returns whether a line is to be printed now."""
    due = self._at_once or _silent() >= self._every
    self._at_once = False
    return due

  @first_only
  def rewrite(self, text: str) -> None:
    """Prints a line that the next one takes the place of on a terminal."""
    if self._terminal:
      _print(f"\r\033[K{text}", end="")
      self._open = True
    else:
      self.say(text)


def duration(seconds: float) -> str:
  """Writes 3725 seconds as 1:02:05."""
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
    super().__init__(every, at_once=True)
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
      done = step - self._start - 1  # since the step that compiled
      rate = done / max(now - self._first, 1e-9)
      eta = duration((self._steps - step) / rate)
      then = f", then {self._then}" if self._then else ""
      speed = f"{rate:.2f} steps/s  ETA {eta}{then}"
    due = self._due()
    line = f"step {step}/{self._steps}  {speed}  {name} {value:.4g}"
    if step == self._steps:  # the last line stays, rewritten by none
      self.say(line)
    elif due:
      self.rewrite(line)
    return rate


class Tally(_Line):
  """Prints 'evaluating sft: 320/3072 users  ETA 0:00:41'.

  On a terminal the line disappears at the end; elsewhere nothing is printed of
  what is done before `every` seconds without any line have passed.

  Args:
    total: how many there are to do.
    unit: what is counted.
    every: seconds between lines where there is no terminal.
  """

  def __init__(self, total: int, unit: str, every: float = 10.0):
    super().__init__(every, at_once=False)
    self._total, self._unit = total, unit
    self._done = 0
    self._first: tuple[int, float] | None = None

  @first_only
  def add(self, label: str, count: int) -> None:
    """Reports that `count` more are done; `label` names the work."""
    now = time.monotonic()
    self._done += count
    eta = ""
    if self._first is None:  # compiles, so it does not count for the rate
      self._first = (self._done, now)
    else:
      done, since = self._first
      rate = (self._done - done) / max(now - since, 1e-9)
      eta = f"  ETA {duration((self._total - self._done) / rate)}"
    if self._due():
      self.rewrite(f"{label}: {self._done}/{self._total} {self._unit}{eta}")


class Relay(_Line):
  """Prints 'run 3/12 rloo: step 20/80  3.1 steps/s': another program's lines.

  The newest line takes the place of the last; elsewhere than on a terminal one
  is printed every `every` seconds.
  """

  def __init__(self, every: float = 10.0):
    super().__init__(every, at_once=True)

  @first_only
  def show(self, label: str, line: str) -> None:
    """Shows the newest line of the program that `label` names."""
    if self._due():
      text = f"{label}: {' '.join(line.split())}"  # of a table's wide gaps none
      # A longer one would wrap, and leave its first half when rewritten.
      width = shutil.get_terminal_size().columns - 1
      self.rewrite(text[:width] if self._terminal else text)


@contextlib.contextmanager
def waiting(label: str, every: float = 10.0) -> Iterator[None]:
  """Prints 'LABEL, 0:00:20' whenever nothing was for `every` seconds.

  For what cannot count its own steps: a compilation, a large sum. One of many
  that are counted takes `COUNTED` for `every`. Of several processes only the
  first prints. On a terminal the line disappears when the body ends.
  """
  line = _Line(every, at_once=False)
  done, begun = threading.Event(), time.monotonic()

  def tick() -> None:
    # Processes that print nothing are silent for longer, and need not hurry.
    while not done.wait(max(every - _silent(), every / 10)):
      if _silent() >= every:
        line.rewrite(f"{label}, {duration(time.monotonic() - begun)}")

  # A daemon: a run that ends with an error does not wait for it.
  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    line.clear()
