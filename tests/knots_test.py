"""Factors that change over steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import knots

RISING = ((10, 0.0), (30, 2.0))


@pytest.mark.parametrize(
  ("step", "expected"), [(0, 0), (10, 0), (15, 0.5), (30, 2), (99, 2)]
)
def test_straight_lines_between_knots_and_still_outside(step, expected):
  got = knots.factor(RISING, jnp.int32(step))
  np.testing.assert_allclose(got, expected)


def test_one_knot_holds_for_all_steps():
  np.testing.assert_allclose(knots.factor(((5, 0.5),), jnp.int32(0)), 0.5)


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ((3, 0.5), True),
    ((3, 1), True),
    ((3.0, 0.5), False),
    ((True, 0.5), False),
    ((3, True), False),
    ((3,), False),
    ((3, 0.5, 1.0), False),
    ([3, 0.5], False),
    ("ab", False),
  ],
)
def test_what_a_knot_is(value, expected):
  assert knots.is_knot(value) is expected


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (RISING, []),
    (((0, 1),), []),
    (((-1, 1.0),), ["x holds (-1, 1.0): expected a step and a factor of at"]),
    (
      ((0, float("nan")), (1, -1.0), (2, float("inf"))),
      ["x holds (0, nan)", "x holds (1, -1.0)", "x holds (2, inf)"],
    ),
    (((5, 1.0), (2, 1.0)), ["x has the steps [5, 2]: expected each once"]),
    (((5, 1.0), (5, 2.0)), ["x has the steps [5, 5]: expected each once"]),
    (
      ((5, 0.0), (9, 0)),
      ["x is 0 at all steps: expected a factor above 0; or not"],
    ),
  ],
)
def test_what_is_wrong_is_said(given, expected):
  found = knots.problems(given, "x", "or not")
  assert len(found) == len(expected)
  for line, beginning in zip(found, expected, strict=True):
    assert line.startswith(beginning)
