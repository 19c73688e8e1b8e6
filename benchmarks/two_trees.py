r"""Speed of two checkouts of this project, their steps taken by turns.

    git worktree add ../before COMMIT
    python -m benchmarks.two_trees --before=../before [--size=40m,200m]

What was slow before and is fast now, or the other way round: each tree's own
`jax_loop` runs in a process of its own, on the same weights and prompts, and
the sides take turns, so that whatever else the machine does slows both.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import sides, workload
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli

# What a side's process runs: a step for each line that it is sent. Training
# keeps what `versus_torch` lets it keep.
_SERVE = """
import sys, time
from benchmarks import jax_loop, workload
task, folder, size = sys.argv[1:]
if task not in workload.TASKS:  # as it was called until 9bc8280
  task = task.replace("sample", "draw")
side = jax_loop.build(
  task, folder, workload.SIZES[size], dtype="float32", remat="dots"
)
step = getattr(side, "step", None) or side.draw
step()  # compiles
print("ready", flush=True)
for _ in sys.stdin:
  start = time.perf_counter()
  step()
  print(time.perf_counter() - start, flush=True)
"""


class Tree:
  """A process that runs a task of one checkout.

  Not one of `sides`, which knows this checkout's modules from its start.
  """

  def __init__(self, path, task, folder, size):
    """Starts it, and waits until it has compiled."""
    self.path = path
    self._process = subprocess.Popen(
      # By its text: the other tree has no file of it.
      [sys.executable, "-c", _SERVE, task, folder, size],
      cwd=path,
      # Its own code, whatever is installed.
      env=os.environ | {"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._receive("ready")

  def time(self):
    """Returns the seconds of a step."""
    print(file=self._process.stdin, flush=True)
    return float(self._receive(""))

  def stop(self):
    """Ends it."""
    self._process.kill()
    self._process.wait()

  def _receive(self, expected):
    # Ends with the process, if that ends.
    line = self._process.stdout.readline().strip()
    if not line.startswith(expected) or not line:
      self.stop()
      raise UserError(
        f"{self.path}: its process ended with status"
        f" {self._process.returncode}, or said {line!r}; what it wrote is above"
      )
    return line


def compare(paths, task, folder, size, repeats):
  """Returns the median seconds of a task by each tree."""
  trees = []
  try:
    for path in paths:  # none is timed while another compiles
      trees.append(Tree(path, task, folder, size))
    seconds = [[tree.time() for tree in trees] for _ in range(repeats)]
  finally:
    for tree in trees:
      tree.stop()
  return [statistics.median(each) for each in zip(*seconds, strict=True)]


def main():
  """Measures and prints everything."""
  options, rows = flags.FLAGS, []
  before = pathlib.Path(options.before).resolve()
  if not (before / "benchmarks/jax_loop.py").exists():
    raise UserError(
      f"--before={options.before}: expected a checkout of this project, with"
      " benchmarks/jax_loop.py"
    )
  paths = before, pathlib.Path(__file__).resolve().parents[1]
  print("size  task              before       now    faster", flush=True)
  for size in options.size:
    with tempfile.TemporaryDirectory() as folder:
      # In a process of its own, so that this one stays small.
      sides.apart(workload.save, folder, size)
      for task in options.task:
        was, now = compare(paths, task, folder, size, options.repeats)
        row = {"size": size, "task": task, "before": was, "now": now}
        rows.append(row)
        print(
          f"{size:<5} {task:<15}{was:8.2f} s {now:8.2f} s {was / now:7.2f}x",
          flush=True,
        )
  sides.write(options.json, rows)


if __name__ == "__main__":
  flags.DEFINE_string("before", None, "The other checkout.", required=True)
  sides.define_some("size", ["40m", "200m"], workload.SIZES)
  sides.define_some("task", list(workload.TASKS), workload.TASKS)
  flags.DEFINE_integer("repeats", 3, "Of each measurement.", 1)
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
