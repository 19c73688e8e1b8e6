"""Runs a tool as a person does: in a process of its own, from anywhere."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run_tool(
  name: str, *args: str, code: str | None = None
) -> tuple[int, str, str]:
  """Runs tools/`name`, or `code` with the tool's path as its first argument.

  Returns:
    The exit status, stdout and stderr.
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
  return done.returncode, done.stdout, done.stderr
