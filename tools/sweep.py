r"""Trains every configuration of an ablation, and compares them.

    python tools/sweep.py --config=configs/rl.py[:variant] \
        --set=KEY=V1,V2 [--set=...] [--case='KEY=V KEY2=V2'] --seeds=3 --out=DIR

Every value of each --set meets every value of the others; a --set with one
value holds for all runs. A --case is one more configuration, with its own
changes alone; without a --set of several values the config as it is comes
first, what all others are compared with. Commas within brackets or quotes
are part of a value: --set=eval.temperatures='(0.5,1.5),()' has two.

The runs come one after another, in DIR/CONFIGURATION/seed_N, and the same
command again skips what is done and resumes what is not. A run that fails is a
row that says why; the others go on. At the end tools/compare.py's page is in
DIR. --print_commands prints the commands instead, one a line, for a job array;
afterwards the command without it compares what they left.
"""

from collections.abc import Sequence
import functools
import os
from pathlib import Path
import shlex
import signal
import sys
import time
from typing import Any, NamedTuple

from absl import flags

from genrec_jax.core.errors import UserError, listed
from genrec_jax.runtime import cli, path_flags

_MAIN = Path(__file__).parents[1] / "main.py"
_CONFIG = flags.DEFINE_string(
  "config", None, "Path[:variant] of a config.", required=True
)
_SET = flags.DEFINE_multi_string(
  "set", [], "KEY=V1,V2: values of a key; may be given several times."
)
_CASE = flags.DEFINE_multi_string(
  "case", [], "'KEY=V KEY2=V2': one more configuration; several times."
)
_SEEDS = flags.DEFINE_integer(
  "seeds", 1, "Runs of each configuration: seeds 0, 1, ...", lower_bound=1
)
_OUT = path_flags.path_flag("out", None, "Folder of the sweep.", required=True)
_PRINT = flags.DEFINE_bool(
  "print_commands", False, "Print the commands, one a line, and run nothing."
)


class Run(NamedTuple):
  """A run of the sweep."""

  configuration: Any  # see `config.sweep.Configuration`
  seed: int
  workdir: str
  config: Any  # ConfigDict
  invalid: str  # why it cannot run; '': it can

  @property
  def label(self) -> str:
    """The run, for people."""
    return f"{self.configuration.name}, seed {self.seed}"

  @property
  def flags(self) -> list[str]:
    """The flags of main.py."""
    return [
      f"--config={_CONFIG.value}",
      *self.configuration.arguments(),
      f"--config.seed={self.seed}",
      f"--workdir={self.workdir}",
    ]


def main() -> None:
  """Does what the flags say."""
  runs = _runs()
  if _PRINT.value:
    for run in runs:
      if not run.invalid:
        print(shlex.join(["python", os.path.relpath(_MAIN), *run.flags]))
  else:
    _sweep(runs)


def _as_run(config: Any, given: set[str]) -> Any:
  """Returns a config with the answers that its runs will take over."""
  from genrec_jax.runtime.inheritance import inherited_answer

  own = config.copy_and_resolve_references()
  taken, _ = inherited_answer(config.to_dict(), given, config.workdir)
  own.model.update(taken)
  return own


def _runs() -> list[Run]:
  """Returns all runs, checked before any begins.

  Combinations of values that no run can have are runs that say so.

  Raises:
    UserError: a key or a value that is wrong by itself, or no configuration
      that can run.
  """
  # Imports take a second: bad flags are reported sooner.
  from genrec_jax.config import check, flag, sweep

  problems, runs = [], []
  for one in sweep.configurations(_SET.value, _CASE.value):
    invalid = ""
    try:
      config = flag.load(_CONFIG.value, one.overrides)
    except UserError as error:
      problems.append(str(error))
      continue
    try:
      check(_as_run(config, set(one.overrides)))
    except UserError as error:
      invalid = " ".join(str(error).split())
    for seed in range(_SEEDS.value):
      workdir = str(Path(_OUT.value, one.folder, f"seed_{seed}"))
      own = config.copy_and_resolve_references()
      own.seed = seed
      runs.append(Run(one, seed, workdir, own, invalid))
  if not problems and all(run.invalid for run in runs):
    problems = [run.invalid for run in runs]
  if problems:
    # A key that is wrong is wrong in every configuration.
    problems = list(dict.fromkeys(problems))
    raise UserError(listed("this sweep cannot run:", problems))
  # A first look at all configurations comes before the second seed of any.
  return sorted(runs, key=lambda run: run.seed)


def _sweep(runs: Sequence[Run]) -> None:
  """Runs what is not done, then compares what is."""
  from genrec_jax.evals.compare import write
  from genrec_jax.runtime import workdir_lock

  # A job that is to end: the run is told so, and saves what it has.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  out = _OUT.value
  Path(out).mkdir(parents=True, exist_ok=True)
  try:
    with workdir_lock.locked(out):
      failed = _run_all(runs)
      rows = [
        {
          "name": run.configuration.name,
          "values": dict(run.configuration.changes),
          "seed": run.seed,
          "reason": failed[run.workdir],
        }
        for run in runs
        if run.workdir in failed
      ]
      paths = [run.workdir for run in runs if run.workdir not in failed]
      if not paths:
        reasons = [f"{row['name']}: {row['reason']}" for row in rows]
        raise UserError(listed("all runs failed:", reasons))
      write.compare(paths, out, failed=rows)
  except workdir_lock.InUse:
    raise UserError(
      f"{out} is in use by another sweep: wait for it, stop it, or give another"
      " --out"
    ) from None
  print(f"the table, curves and images are in {Path(out, 'compare.html')}")
  if failed:
    raise UserError(
      f"{len(failed)} of {len(runs)} runs failed, as said above; their logs are"
      " next to their folders, and the same command tries them again"
    )


def _run_all(runs: Sequence[Run]) -> dict[str, str]:
  """Runs what is not done; returns {workdir: why it failed}."""
  from genrec_jax.config.finished import finished
  from genrec_jax.runtime import child, progress, workdir_lock

  failed: dict[str, str] = {}
  todo = []
  for run in runs:
    if run.invalid:
      failed[run.workdir] = run.invalid
    elif not finished(run.workdir, run.config):
      todo.append(run)
  relay = progress.Relay()
  relay.say(
    f"{len(runs)} runs: {len(runs) - len(todo) - len(failed)} done already,"
    f" {len(failed)} that cannot be, {len(todo)} to go"
  )
  begun = time.monotonic()
  for number, run in enumerate(todo):
    left = (time.monotonic() - begun) / max(number, 1) * (len(todo) - number)
    eta = f"  ETA {progress.duration(left)}" if number else ""
    relay.say(f"run {number + 1}/{len(todo)}: {run.label}{eta}")
    # Of a sweep that was killed, the last run may go on, and be done by then.
    workdir_lock.wait(run.workdir)
    if finished(run.workdir, run.config):
      continue
    reason = child.run(
      [sys.executable, str(_MAIN), *run.flags],
      f"{run.workdir}.log",
      functools.partial(relay.show, "  " + run.label),
    )
    if reason:
      failed[run.workdir] = reason
      relay.say(f"failed: {reason}")
  relay.close()
  return failed


if __name__ == "__main__":
  cli.run(main)
