"""Runs a tool as a person does: in a process of its own, from anywhere."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run_tool(
  name: str, *args: str, code: str | None = None
) -> tuple[int, str, str]:
  """Runs tools/`name`, or `code` with the tool's path as its first argument.

  Returns:
    The exit status, stdout and `own_words` of stderr.
  """
  tool = str(ROOT / "tools" / name)
  start = [tool] if code is None else ["-c", code, tool]
  done = subprocess.run(
    [sys.executable, *start, *args],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": ""},
    cwd="/",
  )
  return done.returncode, done.stdout, own_words(done.stderr)


def own_words(stderr: str) -> str:
  """Returns what a command itself writes to standard error, '' if nothing.

  That is its error at the end, and the whole of a traceback. What comes before
  it may be any library's warning, new with any of its versions.
  """
  if "Traceback" in stderr:
    return stderr
  found = re.search(r"^(error|warning): ", stderr, re.MULTILINE)
  return stderr[found.start() :] if found else ""
