"""Runs a config: python main.py --config=configs/rl.py.

A variant follows a colon (configs/rl.py:debug), any key can be overridden
(--config.optim.lr=1e-5), --workdir says where results go. The same command
again resumes a run that was stopped. On several machines the same command runs
on each of them; see docs/launch.md.
"""

import functools
import importlib
import os
import re

from absl import app, flags
import jax
from ml_collections import config_flags

from genrec_jax.config import TASKS, check
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import cli, distributed, launch, workdir

# Folders among the keys. A workdir's config names them for whoever reads it
# from elsewhere.
FOLDERS = ("model.checkpoint", "clip.checkpoint", "eval.base", "data.path")

config_flags.DEFINE_config_file("config", None, "Path[:variant] of a config.")
cli.path_flag("workdir", None, "Folder of the run; overrides the config.")
flags.DEFINE_string(
  "distributed",
  "auto",
  "How the processes of a run find each other: 'auto' asks SLURM, Open MPI, GKE"
  " or the TPU VM, 'HOST:PORT,NUM,ID' says it, 'off' runs alone.",
)
flags.mark_flag_as_required("config")


def parse(argv: list[str]) -> list[str]:
  """Parses flags; what is wrong with them ends the program in one line."""
  argv = [_with_home(arg) for arg in argv]
  path = re.search(r"^--?config[=\n]([^:\n]+)", "\n".join(argv), re.MULTILINE)
  if path and not os.path.isfile(path[1]):
    cli.fail(f"no config file {path[1]!r}: expected one such as configs/rl.py")
  try:
    rest = flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:  # ml_collections: unknown key
    cli.fail(_unknown_key(argv, str(error)))
  except (flags.Error, TypeError, ValueError) as error:
    # absl appends the traceback of an error in the config; its end says it.
    last = str(error).strip().splitlines()[-1].strip()
    cli.fail(re.sub(r"^\w+Error: ", "", last))
  cli.refuse_arguments(rest)
  with cli.user_errors():
    _expand_homes(flags.FLAGS.config)
  return rest


def main(_: list[str]) -> None:
  """Runs the config's task in its workdir."""
  cli.quieten()
  flag, config = flags.FLAGS["config"], flags.FLAGS.config
  if flags.FLAGS.workdir:
    config.workdir = flags.FLAGS.workdir
  with (
    cli.user_errors(functools.partial(interrupted, config)),
    launch.joined(flags.FLAGS.distributed),
  ):
    cli.require_device()
    check(config)
    distributed.assert_same_everywhere(
      "the config or the version of JAX", config.to_json() + jax.__version__
    )
    inherit_data(config, set(config_flags.get_override_values(flag)))
    keys = flatten(config.to_dict(), sep=".")
    config.update_from_flattened_dict(
      {
        path: os.path.abspath(keys[path])
        for path in FOLDERS
        if os.path.isdir(keys.get(path, ""))
      }
    )
    # Before anything is loaded: a 7B model takes minutes.
    workdir.check(config.workdir, config.to_json())
    with workdir.locked(config.workdir):
      add_fingerprints(config)
      workdir.check(config.workdir, config.to_json())
      importlib.import_module(TASKS[config.task]).run(config, config.workdir)


def interrupted(config) -> str:
  """Says what the same command will do after this one was interrupted."""
  if config.task == "evaluate":
    return "stopped; the same command begins anew"
  step = workdir.newest_step(config.workdir)
  if step is None:
    return "stopped before the first checkpoint; the same command begins anew"
  return f"stopped; the same command resumes from step {step}"


def inherit_data(config, given: set[str]) -> None:
  """Takes over the data set and the prompts that a checkpoint was trained on.

  What is taken over is printed, and so are prompts of another form that the
  command line asks for, which an evaluation refuses.

  Args:
    config: of the run; changed in place.
    given: the keys that the command line sets; see `workdir.inherited_data`.
  """
  taken, source = workdir.inherited_data(
    config.to_dict(), given, config.workdir
  )
  config.data.update(taken)
  if not source:
    return
  theirs = workdir.read_config(source)["data"]
  values = [f"data.{key}={value!r}" for key, value in taken.items()]
  if values:
    distributed.say(f"as {source} was trained: {', '.join(values)}")
  others = [
    f"data.{key} was {theirs[key]!r}, is {config.data[key]!r}"
    for key in workdir.PROMPT_KEYS
    if key in theirs and theirs[key] != config.data[key]
  ]
  if others and config.task != "evaluate":
    distributed.say(
      f"prompts differ from those that {source} was trained on:"
      f" {'; '.join(others)}"
    )


def add_fingerprints(config) -> None:
  """Records what the folders that a training run starts from hold now.

  Raises:
    UserError: one of them cannot be used.
  """
  if config.task == "evaluate" or not distributed.is_first():
    return
  # They import much, for which a workdir that is refused should not wait.
  from genrec_jax.data import dataset
  from genrec_jax.hf import workdir_model

  fingerprints = {
    workdir.DATA_FINGERPRINT: dataset.fingerprint(config.data.path),
    workdir.FINGERPRINT: workdir_model.fingerprint(config.model.checkpoint),
    workdir.CLIP_FINGERPRINT: workdir_model.fingerprint(config.clip.checkpoint),
  }
  with config.unlocked():
    config.update_from_flattened_dict(fingerprints)


def _with_home(arg: str) -> str:
  """Returns an argument with the home folder for the '~' of --config=~/..."""
  flag, equals, path = arg.partition("=")
  if flag.lstrip("-") == "config" and path.startswith("~"):
    with cli.user_errors():
      return flag + equals + cli.home(path)
  return arg


def _expand_homes(config) -> None:
  """Puts the home folder for the '~' of a config's folders; see `cli.home`."""
  keys = flatten(config.to_dict(), sep=".")
  config.update_from_flattened_dict(
    {
      path: cli.home(keys[path])
      for path in ("workdir", *FOLDERS)
      if keys.get(path)
    }
  )


def _unknown_key(argv: list[str], message: str) -> str:
  quoted = re.search(r"'(\w+)", message)
  key = quoted[1] if quoted else message
  paths = [arg.split("=")[0].removeprefix("--config.") for arg in argv]
  path = next((path for path in paths if key in path.split(".")), key)
  hint = re.search(r'Did you mean "(\w+)"', message)
  expected = f"did you mean {hint[1]}?" if hint else "see the file's keys"
  return f"unknown config key {path!r}: {expected}"


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
