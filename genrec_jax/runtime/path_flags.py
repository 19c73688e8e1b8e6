"""Flags that are paths: '~' is the home folder, lists are split at commas."""

from collections.abc import Callable
import csv
import os
from typing import Any

from absl import flags

from genrec_jax.core.errors import UserError

# Flags defined by `path_flag` belong to the module that calls it.
flags.disclaim_key_flags()


def home(path: str) -> str:
  """Returns a path with the home folder for a '~' or '~user' it begins with.

  Shells leave it alone behind the '=' of a flag.

  Raises:
    UserError: nobody has that home, so that no folder '~' is ever made.
  """
  full = os.path.expanduser(path)
  if full.startswith("~"):
    raise UserError(
      f"{path}: there is no home folder {full.split(os.sep)[0]}; a folder of"
      f" that name is ./{path}"
    )
  return full


def split_paths(text: str) -> list[str]:
  """Splits 'a.png,b.png' at its commas, except those of existing names.

  Where files 'a,b.png' and 'c.png' exist, 'a,b.png,c.png' is these two. Double
  quotes keep a name together, as in CSV. '~' is the home folder.

  Raises:
    UserError: see `home`.
  """
  parts, paths = next(csv.reader([text]), []), []
  while parts:
    # The longest name that exists: its commas are its own.
    names = [home(",".join(parts[:n])) for n in range(len(parts), 0, -1)]
    name = next(filter(os.path.exists, names), home(parts[0].strip()))
    count = len(parts) - names.index(name) if name in names else 1
    paths.append(name)
    parts = parts[count:]
  return paths


class _Parser(flags.ArgumentParser):
  """Parses a flag by a function; its `UserError` is the flag's."""

  def __init__(self, convert: Callable[[str], str | list[str]]):
    self._convert = convert

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):  # a default that is parsed already
      return argument
    try:
      return self._convert(argument)
    except UserError as error:  # absl reports ValueErrors with the flag
      raise ValueError(str(error)) from None


def path_flag(
  name: str, default: str | None, text: str, *, required: bool = False
) -> flags.FlagHolder:
  """Defines a flag that is a path; see `home`."""
  return flags.DEFINE(
    _Parser(home),
    name,
    default,
    text,
    serializer=flags.ArgumentSerializer(),
    required=required,
  )


def paths_flag(name: str, text: str) -> flags.FlagHolder:
  """Defines a flag that is several paths, by default none; `split_paths`."""
  return flags.DEFINE(
    _Parser(split_paths),
    name,
    [],
    text,
    serializer=flags.CsvListSerializer(","),
  )
