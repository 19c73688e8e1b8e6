"""A program of ours run by another: its output kept, its end told in a line."""

from collections.abc import Callable, Sequence
import os
from pathlib import Path
import re
import signal
import subprocess

_ERROR = re.compile(r"^error: ")  # how our programs begin their last words


def run(
  command: Sequence[str], log: str, seen: Callable[[str], None]
) -> str | None:
  """Runs a command to its end; returns None, or why it failed in a line.

  Args:
    command: program and arguments.
    log: a file that its output is appended to.
    seen: called with each line of the output.

  Interrupted, the command is told to stop, and waited for.
  """
  Path(log).parent.mkdir(parents=True, exist_ok=True)
  lines: list[str] = []
  with open(log, "a") as file:
    process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      errors="replace",
      # Or its lines would come in blocks, long after what they tell.
      env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
      assert process.stdout is not None
      for line in process.stdout:
        file.write(line)
        file.flush()
        if line.strip():
          lines.append(line.rstrip())
          seen(lines[-1])
      status = process.wait()
    except BaseException:
      # A training saves what it has when it is told to stop.
      process.terminate()
      process.wait()
      raise
  return None if status == 0 else reason(status, lines)


def reason(status: int, lines: Sequence[str]) -> str:
  """Returns why a program failed, from its exit status and output."""
  if status < 0:
    return f"killed by {signal.Signals(-status).name}"
  starts = [i for i, line in enumerate(lines) if _ERROR.match(line)]
  if starts:  # what follows it lists what is wrong
    words = [line.strip() for line in lines[starts[-1] :]]
    return " ".join(words).removeprefix("error: ")
  last = f": {lines[-1].strip()}" if lines else ""
  return f"exit status {status}{last}"
