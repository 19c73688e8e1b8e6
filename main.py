"""Runs a config: python main.py --config=configs/rl.py.

A variant follows a colon (configs/rl.py:debug), any key can be overridden
(--config.optim.lr=1e-5), --workdir says where results go. The same command
again resumes a run that was stopped. On several machines run the same command
on each of them; see docs/launch.md.
"""

import functools
import importlib
from typing import Any

from absl import app, flags
import jax

from genrec_jax.config import TASKS, check, complete, flag
from genrec_jax.runtime import (
  cli,
  compiler,
  distributed,
  launch,
  path_flags,
  workdir,
  workdir_lock,
)

_CONFIG = flag.define()
_WORKDIR = path_flags.path_flag(
  "workdir", None, "Folder of the run; overrides the config."
)
_DISTRIBUTED = flags.DEFINE_string(
  "distributed",
  "auto",
  "How the processes of a run find each other: 'auto' asks SLURM, Open MPI, GKE"
  " or the TPU VM, 'HOST:PORT,NUM,ID' gives it, 'off' runs alone.",
)


def main(_: list[str]) -> None:
  """Runs the config's task in its workdir."""
  cli.quieten()
  config = _CONFIG.value
  if _WORKDIR.value:
    config.workdir = _WORKDIR.value
  with (
    cli.user_errors(functools.partial(interrupted, config)),
    launch.joined(_DISTRIBUTED.value),
  ):
    compiler.keep_compiled()
    cli.require_device()
    complete.inherit_answer(config, flag.given_keys())
    check(config)
    # Processes of different configs would wait for each other for ever.
    distributed.assert_same_everywhere(
      "the config or the version of JAX", config.to_json() + jax.__version__
    )
    complete.inherit_data(config, flag.given_keys())
    complete.make_absolute(config)
    # Before anything is loaded: a 7B model takes minutes.
    workdir.check(config.workdir, config.to_json())
    with workdir_lock.locked(config.workdir):
      complete.add_fingerprints(config)
      # Again, with hashes: the same path may hold another model by now.
      workdir.check(config.workdir, config.to_json())
      importlib.import_module(TASKS[config.task]).run(config, config.workdir)


def interrupted(config: Any) -> str:
  """Returns what the same command will do after this one was interrupted."""
  if config.task == "evaluate":
    return "stopped; the same command begins anew"
  step = workdir.newest_step(config.workdir)
  if step is None:
    return "stopped before the first checkpoint; the same command begins anew"
  return f"stopped; the same command resumes from step {step}"


if __name__ == "__main__":
  app.run(main, flags_parser=flag.parse)
