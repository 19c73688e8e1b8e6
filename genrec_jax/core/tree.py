"""Nested dicts addressed by '/'-joined paths; those of configs by '.'."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from flax import traverse_util

from genrec_jax.core.errors import UserError, listed

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], sep: str = "/") -> dict[str, Any]:
  """Returns {'a/b/c': leaf} of a nested dict, in the dict's own order.

  Anything that is not a dict is a leaf; empty dicts vanish.
  """
  return traverse_util.flatten_dict(dict(tree), sep=sep)


def unflatten(flat: Mapping[str, Any]) -> Tree:
  """Returns the nested dict of {'a/b/c': leaf}; the inverse of `flatten`.

  Raises:
    ValueError: a path is both a leaf and a branch.
  """
  # 'a' and 'a/b' at once: Flax would let the later overwrite the other.
  branches = {
    path[:end] for path in flat for end, c in enumerate(path) if c == "/"
  }
  if both := sorted(branches & flat.keys()):
    raise ValueError(
      listed("each is a leaf and a branch:", [repr(path) for path in both])
    )
  return traverse_util.unflatten_dict(dict(flat), sep="/")


def select(
  tree: Mapping[str, Any], patterns: Sequence[str]
) -> tuple[Tree, Tree]:
  """Splits a tree into (leaves whose path matches any pattern, the rest).

  Patterns are regular expressions searched anywhere in the path.

  Raises:
    UserError: a pattern is no regular expression or matches no path.
  """
  flat = flatten(tree)
  # Every bad pattern is reported, not the first alone.
  problems: list[str] = []
  matched: dict[str, None] = {}  # a set that keeps the order
  for pattern in patterns:
    try:
      # search, not fullmatch: '^language/' names a whole branch.
      hits = {path for path in flat if re.search(pattern, path)}
    except re.error as error:
      problems.append(f"{pattern!r} is no regular expression: {error}")
      continue
    if not hits:
      problems.append(f"{pattern!r} matches no parameter")
    matched.update(dict.fromkeys(hits))
  if problems:
    heads = sorted({path.split("/")[0] for path in flat})
    raise UserError(
      listed(
        f"bad parameter patterns; paths start with {', '.join(heads)}:",
        problems,
      )
    )
  return (
    unflatten({k: v for k, v in flat.items() if k in matched}),
    unflatten({k: v for k, v in flat.items() if k not in matched}),
  )


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> Tree:
  """Returns the union of two trees with no path in common.

  Raises:
    ValueError: a path is in both.
  """
  flat_a, flat_b = flatten(a), flatten(b)
  # Neither wins: a parameter that is trained and frozen at once is a bug.
  both = sorted(flat_a.keys() & flat_b.keys())
  if both:
    raise ValueError(listed("paths in both trees:", both))
  return unflatten({**flat_a, **flat_b})


def diff(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
  """Returns a line for each path where `actual` differs in shape or type.

  Leaves need only `.shape` and `.dtype` (arrays, ShapeDtypeStruct); values
  are not compared. An empty list means that the trees fit.
  """
  want, have = flatten(expected), flatten(actual)
  lines = [
    f"missing {k}: expected {_form(v)}"
    for k, v in want.items()
    if k not in have
  ]
  lines += [
    f"unexpected {k}: {_form(v)}" for k, v in have.items() if k not in want
  ]
  for path in want.keys() & have.keys():
    if _form(want[path]) != _form(have[path]):  # values may differ
      lines.append(
        f"{path}: expected {_form(want[path])}, found {_form(have[path])}"
      )
  return sorted(lines)


def _form(leaf: Any) -> str:
  return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
