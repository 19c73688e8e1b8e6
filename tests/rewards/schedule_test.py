"""Weights of rewards that change over steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.objectives import advantages
from genrec_jax.rewards import schedule
from tests.config.checks_test import get_config, said

KNOTS = (("copy", 10, 0.0), ("text", 0, 1.0), ("copy", 30, 2.0))
SECTIONS = {
  "text": {"weight": 0.5},
  "copy": {"weight": 3.0, "threshold": 0.9},
  "future": {"weight": 1.0, "pool": "mean"},
}


def test_each_reward_has_its_own_knots():
  assert schedule.knots_of(KNOTS, "copy") == ((10, 0.0), (30, 2.0))
  assert schedule.knots_of(KNOTS, "text") == ((0, 1.0),)
  assert schedule.knots_of(KNOTS, "future") == ()


def test_weights_at_a_step_are_numbers_where_they_stay():
  found = rewards.from_options(SECTIONS, {"other": True}, schedule=KNOTS)
  weights = rewards.weights_at(found, jnp.int32(20))
  assert weights["copy"] == 3.0  # times 1
  assert weights["text"] == weights["text_other"] == 0.25
  assert weights["future"] == 0.5
  assert type(weights["future"]) is float


@pytest.mark.parametrize("normalise", ["group", "none"])
def test_a_weight_that_changes_is_a_weight(normalise):
  rng = np.random.default_rng(0)
  raw = {k: np.float32(rng.normal(size=(3, 4))) for k in ("text", "copy")}

  @jax.jit
  def combined(text, copy):
    return advantages.combine(
      raw,
      {"text": text, "copy": copy},
      normalise=normalise,
      advantage="grpo",
    )

  for weights in ((0.5, 2.0), (0.5, 0.0)):
    values, metrics = combined(*map(jnp.float32, weights))
    expected, numbers = advantages.combine(
      raw,
      dict(zip(raw, weights, strict=True)),
      normalise=normalise,
      advantage="grpo",
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    for name, value in numbers.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6)
  values, _ = combined(jnp.float32(0), jnp.float32(0))
  np.testing.assert_array_equal(values, 0)  # not 0 / 0


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ("x", "schedule is 'x': expected (reward, step, factor)"),
    (("copy", 0, 1.0), "schedule is ('copy', 0, 1.0): expected (reward, step"),
    ((("copy", 0.5, 1.0),), "expected (reward, step, factor)"),
    ((("nothing", 0, 1.0),), "schedule names 'nothing': expected a reward"),
    ((("quality", 0, 1.0),), "schedule names 'quality': expected a reward"),
    (((),), "expected (reward, step, factor)"),
    (((3, 0, 1.0),), "expected (reward, step, factor)"),
    ((("copy", -1, 1.0),), "schedule of 'copy' holds (-1, 1.0): expected a"),
    ((("copy", 0, float("nan")),), "expected a step and a factor"),
    ((("copy", 0, float("inf")),), "expected a step and a factor"),
    ((("copy", 0, -1.0),), "expected a step and a factor"),
    (
      (("copy", 5, 1.0), ("copy", 2, 1.0)),
      "schedule of 'copy' has the steps [5, 2]: expected each once",
    ),
    (
      (("copy", 5, 1.0), ("copy", 5, 2.0)),
      "schedule of 'copy' has the steps [5, 5]: expected each once",
    ),
    ((("copy", 5, 0.0),), "schedule of 'copy' is 0 at all steps"),
  ],
)
def test_a_schedule_that_is_none_is_refused(given, message):
  found = said(get_config({"rewards.schedule": given}))
  assert found.startswith("rewards.schedule")
  assert message in found


def test_what_is_wrong_with_two_knots_alike_is_said_once():
  knots = (("nothing", 0, 1.0), ("nothing", 5, 2.0))
  assert len(schedule.problems(knots, SECTIONS)) == 1


def test_a_schedule_that_is_one_is_not():
  good = (("copy", 0, 0), ("copy", 40, 1.0), ("text", 3, 2.0))
  assert not said(get_config({"rewards.schedule": good}))
