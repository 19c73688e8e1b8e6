"""The flag --config of main.py and of tools: a Python file, and its errors.

A config file stands in a folder of its repository, as configs/rl.py does, and
may import its neighbours as `from configs import common`: the folder above its
own is put on Python's path before it is read.
"""

from collections.abc import Callable, Mapping
import os
import re
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from genrec_jax.core.errors import UserError
from genrec_jax.core.tree import flatten
from genrec_jax.runtime import cli, path_flags

# Keys that are folders. A workdir's config.json holds them as absolute paths,
# so that it can be read from anywhere.
FOLDERS = (
  "model.checkpoint",
  "clip.checkpoint",
  "eval.base",
  "eval.judges",  # several
  "rewards.encoders",  # several
  "rewards.quality.checkpoint",
  "eval.quality",
  "data.path",
  "data.prompts",  # a file
)
_PATH = re.compile(r"^--?config[=\n]([^:\n]+):?(\w*)", re.MULTILINE)

# The flag belongs to the module that calls `define`, whose --help shows it.
flags.disclaim_key_flags()


def define() -> flags.FlagHolder:
  """Defines --config; returns its holder."""
  holder = config_flags.DEFINE_config_file(
    "config", None, "Path[:variant] of a config."
  )
  flags.mark_flag_as_required("config")
  return holder


def parse(argv: list[str]) -> list[str]:
  """Parses flags; what is wrong with them ends the program in one line."""
  argv = [_with_home(arg) for arg in argv]
  with cli.user_errors():
    rest = _parse(flags.FLAGS, argv)
    cli.refuse_arguments(rest)
    _expand_homes(flags.FLAGS.config)
  return rest


def load(path: str, overrides: Mapping[str, str]) -> ConfigDict:
  """Returns a config with some keys set, as the flag --config would have it.

  Args:
    path: PATH or PATH:VARIANT.
    overrides: {'rl.advantage': 'rloo'}, values as they are typed.

  Raises:
    UserError: no such file, variant or key, or a value of another type.
  """
  argv = ["", f"--config={path_flags.home(path)}"]
  argv += [f"--config.{key}={value}" for key, value in overrides.items()]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  _parse(values, argv)
  _expand_homes(values.config)
  return values.config


def _parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
  """Parses flags, --config among them; returns what is none.

  Raises:
    UserError: what is wrong, in one line.
  """
  if given := _PATH.search("\n".join(argv)):
    path = given[1]
    if not os.path.isfile(path):
      raise UserError(
        f"no config file {path!r}: expected one such as configs/rl.py"
      )
    # First, as a script's own folder would be: its `configs` before others'.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(path))))
  try:
    return values(argv)
  except (AttributeError, KeyError) as error:  # ml_collections: unknown key
    raise UserError(_unknown_key(argv, str(error))) from None
  except (flags.Error, TypeError, ValueError) as error:
    # absl appends the traceback of an error in the config; the message is its
    # last line.
    last = str(error).strip().splitlines()[-1].strip()
    raise UserError(re.sub(r"^\w+Error: ", "", last)) from None


def each(function: Callable[[str], str], value: Any) -> Any:
  """Returns a function of a key's folder, or of each where it has several."""
  several = isinstance(value, tuple | list)
  return tuple(map(function, value)) if several else function(value)


def variant() -> str:
  """Returns what follows the colon of --config=PATH:VARIANT; '' for none."""
  given = _PATH.search("\n".join(sys.argv))
  return given[2] if given else ""


def given_keys() -> set[str]:
  """Returns the keys, as 'data.path', that the command line sets."""
  return set(config_flags.get_override_values(flags.FLAGS["config"]))


def _with_home(arg: str) -> str:
  """Returns an argument with the home folder for the '~' of --config=~/..."""
  flag, equals, path = arg.partition("=")
  if flag.lstrip("-") == "config" and path.startswith("~"):
    with cli.user_errors():
      return flag + equals + path_flags.home(path)
  return arg


def _expand_homes(config: ConfigDict) -> None:
  """Puts the home folder for the '~' of a config's folders."""
  keys = flatten(config.to_dict(), sep=".")
  config.update_from_flattened_dict(
    {
      path: each(path_flags.home, keys[path])
      for path in ("workdir", *FOLDERS)
      if keys.get(path)
    }
  )


def _unknown_key(argv: list[str], message: str) -> str:
  # ml_collections names the last part of a key only, in quotes.
  quoted = re.search(r"'(\w+)", message)
  key = quoted[1] if quoted else message
  paths = [arg.split("=")[0].removeprefix("--config.") for arg in argv]
  path = next((path for path in paths if key in path.split(".")), key)
  hint = re.search(r'Did you mean "(\w+)"', message)
  expected = f"did you mean {hint[1]}?" if hint else "see the file's keys"
  return f"unknown config key {path!r}: {expected}"
