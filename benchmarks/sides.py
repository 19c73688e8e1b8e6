"""Times two sides of a comparison, each in a process of its own.

The sides take turns, so that whatever else the machine does slows both, and a
process of its own has a peak of memory that is one side's alone.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import time
from typing import Any

from absl import flags

from genrec_jax.core.errors import UserError

# Linux: the peak of resident memory, and the file that resets it.
_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


class Side:
  """A process that builds something once and runs it on request."""

  def __init__(
    self, name: str, build: Callable, settings: Mapping[str, Any], threads: int
  ):
    """Starts it.

    Args:
      name: for messages.
      build: called in the process with `settings`; returns a function to time
        and None, or a function that returns a device's peak memory in bytes
        since the process started.
      settings: keyword arguments, to be pickled.
      threads: cores it may use.
    """
    self.name = name
    # Not fork, which would copy the memory and the threads of this process.
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, build, dict(settings), threads), daemon=True
    )
    # Read when libraries start, so they must be there before.
    os.environ.update(OMP_NUM_THREADS=str(threads))
    self._process.start()
    # Else the pipe would never end, and a side that died be waited for forever.
    theirs.close()

  def ready(self) -> Any:
    """Waits for the first run, which compiles; returns what it returned.

    Raises:
      UserError: it failed.
    """
    return self._receive()

  def time(self) -> dict[str, float]:
    """Runs it once: `seconds`, and `bytes` at the peak.

    Raises:
      UserError: it failed.
    """
    self._pipe.send("run")
    return self._receive()

  def stop(self) -> None:
    """Ends the process."""
    self._pipe.close()
    self._process.join(5)  # it ends by itself when the pipe is closed
    self._process.kill()
    self._process.join()

  def _receive(self):
    try:
      return self._pipe.recv()
    except EOFError:
      self._process.join()
      raise UserError(
        f"{self.name} ended with status {self._process.exitcode}: what it wrote"
        " is above; -9 is for want of memory"
      ) from None


def compare(
  sides: Mapping[str, tuple[Callable, Mapping[str, Any]]],
  *,
  repeats: int,
  threads: int,
) -> dict[str, dict[str, Any]]:
  """Builds all sides, then times them in turn.

  Args:
    sides: name -> (build, settings), see `Side`.
    repeats: of each.
    threads: cores that each may use, one side at a time.

  Returns:
    name -> `seconds` [repeats], the median `second`s, peak `bytes`, and what
    the `first` run returned.
  """
  # All before any is timed, as compiling would slow the other side. While one
  # runs, the others wait on their pipes, which takes memory but no core.
  running = {
    name: Side(name, build, settings, threads)
    for name, (build, settings) in sides.items()
  }
  try:
    found = {
      name: {"first": side.ready(), "seconds": [], "bytes": 0}
      for name, side in running.items()
    }
    # A, B, A, B and not A, A, B, B: a slow minute then is in both medians.
    for _ in range(repeats):
      for name, side in running.items():
        once = side.time()
        found[name]["seconds"].append(once["seconds"])
        found[name]["bytes"] = max(found[name]["bytes"], once["bytes"])
  finally:
    for side in running.values():
      side.stop()
  for values in found.values():
    # Other jobs only ever slow a run, and some by much: a mean would follow.
    values["median"] = statistics.median(values["seconds"])
  return found


def apart(function: Callable, *args: Any) -> None:
  """Calls a function in a process of its own.

  Raises:
    UserError: it failed.
  """
  process = multiprocessing.get_context("spawn").Process(
    target=function, args=args
  )
  process.start()
  process.join()
  if process.exitcode:
    raise UserError(
      f"{function.__name__} ended with status {process.exitcode}: what it wrote"
      " is above"
    )


def median(function: Callable[[], Any], repeats: int) -> float:
  """Returns the median seconds of a call, after one that does not count."""
  function()  # compiles, and touches memory for the first time
  return statistics.median(_timed(function)[0] for _ in range(repeats))


def define_some(name: str, default: list[str], known: Iterable[str]) -> None:
  """Defines a flag whose value is a list of what is known."""
  words = ", ".join(known)  # now, as `known` may be read only once
  flags.DEFINE_list(name, default, f"Some of {words}.")

  def check(given):
    if wrong := set(given) - set(words.split(", ")):
      raise flags.ValidationError(
        f"unknown {', '.join(sorted(wrong))}: expected some of {words}"
      )
    return True

  flags.register_validator(name, check)


def write(file: str, values: Any) -> None:
  """Writes JSON, unless `file` is ''.

  Raises:
    UserError: it cannot be written.
  """
  if not file:
    return
  try:
    pathlib.Path(file).write_text(json.dumps(values, indent=1) + "\n")
  except OSError as error:
    raise UserError(f"--json={file}: {error}") from None


def _timed(function):
  # The function has to wait for its result: JAX and CUDA return before.
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def _serve(pipe, build, settings, threads):
  # XLA starts as many threads as the process may use cores. The same cores for
  # all sides, which take turns. macOS has no such call.
  if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
  run, peak = build(**settings)
  pipe.send(run())  # warm-up: compiles, and what it returns is compared
  while True:
    try:
      pipe.recv()
    except EOFError:  # `stop`, or the parent died
      return
    if peak is None:
      # Loading and compiling took more than a run does. What they keep still
      # counts, as a run starts from it.
      _forget_peak()
    seconds, _ = _timed(run)
    pipe.send({"seconds": seconds, "bytes": (peak or _peak)()})


def _forget_peak():
  """Lets the peak of resident memory start from now, where Linux can."""
  if _CLEAR.exists():
    _CLEAR.write_text("5")  # proc(5): resets VmHWM to what is resident now


def _peak() -> int:
  """Returns bytes of resident memory at the peak."""
  if _STATUS.exists():
    lines = _STATUS.read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values["VmHWM"].split()[0]) * 1024  # in KB
  # Cannot be reset: here loading and compiling are in the peak.
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
