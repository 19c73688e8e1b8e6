"""Knots: a factor that changes over the steps of a run, by straight lines."""

import math
from typing import Any

import jax
import jax.numpy as jnp

# (step, factor), in the order of steps.
Knots = tuple[tuple[int, float], ...]


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


def is_knot(value: Any) -> bool:
  """Returns whether a value is (step, factor), of whatever size."""
  return isinstance(value, tuple) and [*map(type, value)] in (
    [int, float],
    [int, int],
  )  # of the types themselves, as True is an int


def problems(knots: Knots, name: str, without: str) -> list[str]:
  """Returns what is wrong with knots, a line each.

  Args:
    knots: at least one, each of its form, see `is_knot`.
    name: of the schedule, as in 'kl_schedule'.
    without: what to give in place of a factor that is 0 at all steps, as in
      '--config.objective.kl_weight=0 leaves the KL out'.
  """
  found = [
    f"{name} holds {knot}: expected a step and a factor of at least 0"
    for knot in knots
    if knot[0] < 0 or not (math.isfinite(knot[1]) and knot[1] >= 0)
  ]
  steps = [step for step, _ in knots]
  if steps != sorted(set(steps)):
    found.append(
      f"{name} has the steps {steps}: expected each once, in their order"
    )
  if not any(number for _, number in knots):
    found.append(
      f"{name} is 0 at all steps: expected a factor above 0; {without}"
    )
  return found
