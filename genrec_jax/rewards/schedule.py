"""Weights of rewards that change over the steps of a run."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp

# (step, factor of the weight), in the order of steps.
Knots = tuple[tuple[int, float], ...]


def knots_of(schedule: Sequence[tuple[str, int, float]], name: str) -> Knots:
  """Returns of `config.rewards.schedule` the part of one reward."""
  return tuple(
    (step, factor) for other, step, factor in schedule if other == name
  )


def factor(knots: Knots, step: jax.Array) -> jax.Array:
  """Returns what a weight is multiplied by at a step: [].

  Straight lines from knot to knot; before the first and behind the last it
  stays as it is there.
  """
  steps, factors = zip(*knots, strict=True)
  return jnp.interp(
    step.astype(jnp.float32),
    jnp.asarray(steps, jnp.float32),
    jnp.asarray(factors, jnp.float32),
  )


def problems(schedule: Any, sections: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with `config.rewards.schedule`, a line each.

  Args:
    schedule: (reward, step, factor), ...
    sections: of the rewards, by name.
  """
  form = (
    f"schedule is {schedule!r}: expected (reward, step, factor) for each knot,"
    " such as (('copy', 0, 0.0), ('copy', 40, 1.0)), or () for none"
  )
  if not isinstance(schedule, tuple):
    return [form]
  found = []
  for knot in schedule:
    if not isinstance(knot, tuple) or [*map(type, knot)] not in (
      [str, int, float],
      [str, int, int],
    ):  # of the types themselves, as True is an int
      return [form]
    name, step, number = knot
    if not sections.get(name, {}).get("weight"):
      found.append(
        f"schedule names {name!r}: expected a reward whose weight is not 0,"
        " which the factor multiplies"
      )
    if step < 0 or not (math.isfinite(number) and number >= 0):
      found.append(
        f"schedule holds {knot}: expected a step and a factor of at least 0"
      )
  for name in dict.fromkeys(knot[0] for knot in schedule):
    knots = knots_of(schedule, name)
    steps = [step for step, _ in knots]
    if steps != sorted(set(steps)):
      found.append(
        f"schedule of {name!r} has the steps {steps}: expected each once, in"
        " their order"
      )
    if not any(number for _, number in knots):
      found.append(
        f"schedule of {name!r} is 0 at all steps: expected a factor above 0;"
        f" --config.rewards.{name}.weight=0 leaves the reward out"
      )
  return list(dict.fromkeys(found))  # a reward of many knots is named once
