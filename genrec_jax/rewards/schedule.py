"""Weights of rewards that change over the steps of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax import knots as knots_lib
from genrec_jax.knots import Knots


def knots_of(schedule: Sequence[tuple[str, int, float]], name: str) -> Knots:
  """Returns of `config.rewards.schedule` the part of one reward."""
  return tuple(
    (step, factor) for other, step, factor in schedule if other == name
  )


def problems(schedule: Any, sections: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with `config.rewards.schedule`, a line each.

  Args:
    schedule: (reward, step, factor), ...
    sections: of the rewards, by name.
  """
  if not isinstance(schedule, tuple) or not all(map(_is_named, schedule)):
    return [
      f"schedule is {schedule!r}: expected (reward, step, factor) for each"
      " knot, such as (('copy', 0, 0.0), ('copy', 40, 1.0)), or () for none"
    ]
  found = []
  for name in dict.fromkeys(knot[0] for knot in schedule):
    if not sections.get(name, {}).get("weight"):
      found.append(
        f"schedule names {name!r}: expected a reward whose weight is not 0,"
        " which the factor multiplies"
      )
    found += knots_lib.problems(
      knots_of(schedule, name),
      f"schedule of {name!r}",
      f"--config.rewards.{name}.weight=0 leaves the reward out",
    )
  return found


def _is_named(knot: Any) -> bool:
  """Returns whether a value is (reward, step, factor)."""
  named = isinstance(knot, tuple) and isinstance(next(iter(knot), None), str)
  return named and knots_lib.is_knot(knot[1:])
