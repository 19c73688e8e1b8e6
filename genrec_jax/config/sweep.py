"""A sweep: the configurations of --set and --case, and their commands.

    --set=KEY=V1,V2            every value with every one of the other --set
    --set=KEY=V                one value holds for all configurations
    --case='KEY=V KEY2=V2'     one more configuration, of these changes alone

Commas within brackets or quotes are part of a value: --set=KEY=(1,2),(3,) has
two, and --set="KEY='a,b',c" the texts a,b and c.
"""

from collections.abc import Mapping, Sequence
import hashlib
import itertools
import re
import shlex
from typing import NamedTuple

from genrec_jax.core.errors import UserError

_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "'\""
_FORM = "expected KEY=V1,V2, as in --set=rl.advantage=grpo,rloo"
_LONGEST = 100  # letters of a folder's name
# Keys that the sweep itself sets.
_OWN = {"seed": "--seeds", "workdir": "--out"}


class Configuration(NamedTuple):
  """What one configuration of a sweep changes.

  Attributes:
    changes: {'rl.advantage': 'rloo'}, what distinguishes it from others.
    fixed: what all configurations of the sweep change alike.
  """

  changes: Mapping[str, str]
  fixed: Mapping[str, str]

  @property
  def overrides(self) -> dict[str, str]:
    """All that it changes."""
    return {**self.fixed, **self.changes}

  @property
  def name(self) -> str:
    """What distinguishes it, for people; 'as it is' for nothing."""
    parts = [f"{key}={value}" for key, value in self.changes.items()]
    return ", ".join(parts) or "as it is"

  @property
  def folder(self) -> str:
    """A folder's name that no other configuration of the sweep has."""
    whole = "+".join(f"{key}={v}" for key, v in self.changes.items())
    plain = re.sub(r"[^\w.=+-]", "_", whole)
    if plain == whole and len(whole) <= _LONGEST:
      return whole or "as_it_is"
    # Some letters are lost, so others might have the same.
    code = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{plain[:_LONGEST]}-{code}"

  def arguments(self) -> list[str]:
    """Returns the flags of main.py that make the changes."""
    return [f"--config.{key}={v}" for key, v in self.overrides.items()]


def configurations(
  sets: Sequence[str], cases: Sequence[str]
) -> list[Configuration]:
  """Returns all configurations: every combination of `sets`, then `cases`.

  Where no set has several values the config as it is comes first, which cases
  are compared with.

  Args:
    sets: 'KEY=V1,V2' each.
    cases: 'KEY=V KEY2=V2' each, split as a shell does.

  Raises:
    UserError: one that is not of this form, or two of the same changes.
  """
  lists = [_values(text) for text in sets]
  keys = [key for key, _ in lists]
  if twice := {key for key in keys if keys.count(key) > 1}:
    raise UserError(
      f"--set={', '.join(sorted(twice))} is given twice: expected all values of"
      " a key in one, as in --set=KEY=V1,V2"
    )
  fixed = {key: values[0] for key, values in lists if len(values) == 1}
  varied = [(key, values) for key, values in lists if len(values) > 1]
  combinations = itertools.product(*(values for _, values in varied))
  changes = [
    dict(zip((key for key, _ in varied), values, strict=True))
    for values in combinations
  ]
  changes += [dict(map(_pair, _words(case))) for case in cases]
  found = [Configuration(one, fixed) for one in changes]
  names = [one.folder for one in found]
  if twice := {name for name in names if names.count(name) > 1}:
    raise UserError(
      f"two configurations are the same: {', '.join(sorted(twice))}; expected"
      " each once, and no --case without a change"
    )
  return found


def split_values(text: str) -> list[str]:
  """Splits 'V1,V2' at the commas outside of brackets and quotes.

  A value that is quoted as a whole loses its quotes.

  Raises:
    UserError: a bracket or quote that is not closed.
  """
  parts, depth, quote = [""], 0, ""
  for letter in text:
    if quote:
      quote = "" if letter == quote else quote
    elif letter in _QUOTES:
      quote = letter
    elif letter in _OPEN + _CLOSE:
      depth += 1 if letter in _OPEN else -1
    elif letter == "," and not depth:
      parts.append("")
      continue
    parts[-1] += letter
  if depth or quote:
    raise UserError(
      f"{text!r} has a bracket or quote without its other half: expected values"
      " such as (1,2),(3,)"
    )
  return [_unquoted(part.strip()) for part in parts]


def _unquoted(text: str) -> str:
  whole = re.fullmatch(r"(['\"])(.*)\1", text, re.DOTALL)
  # 'a' + 'b' begins and ends with a quote, and is not quoted as a whole.
  return whole[2] if whole and whole[1] not in whole[2] else text


def _values(text: str) -> tuple[str, list[str]]:
  key, rest = _pair(text)
  return key, split_values(rest)


def _pair(text: str) -> tuple[str, str]:
  key, equals, value = text.partition("=")
  key = key.strip().removeprefix("config.")
  if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
    raise UserError(f"{text!r} is no change of a config: {_FORM}")
  if key in _OWN:
    raise UserError(f"{key} cannot be set: give {_OWN[key]}")
  return key, value


def _words(case: str) -> list[str]:
  try:
    return shlex.split(case)
  except ValueError as error:  # an open quote
    raise UserError(f"--case={case}: {error}") from None
