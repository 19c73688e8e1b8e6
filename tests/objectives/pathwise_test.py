"""Pathwise estimators by hand, and against the exact gradient they estimate.

A place has few codes, so expectations over them are sums: what is claimed to
have no bias holds to rounding.
"""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.objectives import pathwise
from genrec_jax.objectives.pathwise import Pathwise, Slopes

BOOK = jax.random.normal(jax.random.key(0), (5, 2))  # [C, E]
LOGITS = jax.random.normal(jax.random.key(1), (5,))
FORM = jax.random.normal(jax.random.key(2), (2, 2))


def options(relaxation, temperature=1.0):
  return Pathwise(
    share=1.0,
    relaxation=relaxation,
    temperature=temperature,
    normalise="none",
  )


def linear(e):
  return e @ jnp.asarray([2.0, -1.0])


def quadratic(e):
  return linear(e) + e @ FORM @ e


def cubic(e):
  return quadratic(e) + jnp.sum(e) ** 3


def exact(reward):
  """Returns the gradient of the expected reward by the logits [C]."""
  rewards = jax.vmap(reward)(BOOK)
  return jax.grad(lambda logits: jax.nn.softmax(logits) @ rewards)(LOGITS)


def expected(reward, relaxation, keys=None, temperature=1.0):
  """Returns the mean over all sampled codes of the estimate [C]."""
  codes = jnp.arange(5).reshape(1, 5, 1)  # as five samples of one place
  slopes = Slopes(jax.vmap(jax.grad(reward))(BOOK)[None, :, None], keys)

  def total(logits):
    logprobs = jax.nn.log_softmax(logits)
    each = jnp.broadcast_to(logprobs, (1, 5, 1, 5))
    found = pathwise.surrogate(
      options(relaxation, temperature), each, codes, slopes, BOOK
    )
    chances = jax.lax.stop_gradient(jnp.exp(logprobs))
    return jnp.sum(chances * found[0, :, 0])

  return jax.grad(total)(LOGITS)


@pytest.mark.parametrize(
  ("reward", "without_bias"),
  [
    (linear, {"expectation", "second_order"}),
    (quadratic, {"second_order"}),
    (cubic, set()),
  ],
)
def test_rewards_whose_gradient_has_no_bias(reward, without_bias):
  truth = exact(reward)
  for relaxation in ("expectation", "second_order"):
    off = np.linalg.norm(expected(reward, relaxation) - truth)
    off /= np.linalg.norm(truth)
    if relaxation in without_bias:
      assert off < 1e-5, relaxation
    else:
      assert off > 0.02, relaxation


def test_values_by_hand():
  """Vectors 0 and 1, a slope of 2, the first code was sampled."""
  book = jnp.asarray([[0.0], [1.0]])
  logprobs = jnp.log(jnp.asarray([0.25, 0.75])).reshape(1, 1, 1, 2)
  codes = jnp.zeros((1, 1, 1), jnp.int32)
  slopes = Slopes(jnp.full((1, 1, 1, 1), 2.0), None)

  def found(name):
    return pathwise.surrogate(options(name), logprobs, codes, slopes, book)

  np.testing.assert_allclose(found("expectation"), 1.5, rtol=1e-6)
  np.testing.assert_allclose(
    found("second_order"), (1.5 - 1.5 * np.log(0.25)) / 2, rtol=1e-6
  )
  with pytest.raises(UserError, match="expectation, second_order, gumbel"):
    found("none")


KEYS = jax.random.split(jax.random.key(3), (4, 3, 2))  # [P, G, I]
SOME = jax.random.normal(jax.random.key(4), (4, 3, 2, 5))
CODES = jax.random.randint(jax.random.key(5), (4, 3, 2), 0, 5)


@pytest.mark.parametrize("relaxation", pathwise.RELAXATIONS)
def test_slopes_are_those_of_finite_differences(relaxation):
  """Where logits move and all that is held constant does not."""
  slopes = Slopes(jax.random.normal(jax.random.key(6), (4, 3, 2, 2)), KEYS)
  start = jax.nn.log_softmax(SOME)
  values = jnp.einsum("pgie,ce->pgic", slopes.vectors, BOOK)
  values -= jnp.take_along_axis(values, CODES[..., None], -1)
  noise = pathwise.posterior_gumbel(start, CODES, KEYS) - start

  def total(logits):
    logprobs = jax.nn.log_softmax(logits)
    return pathwise.surrogate(
      options(relaxation, 0.7), logprobs, CODES, slopes, BOOK
    ).sum()

  def frozen(logits):
    logprobs = jax.nn.log_softmax(logits)
    if relaxation == "gumbel":
      return jnp.sum(jax.nn.softmax((logprobs + noise) / 0.7) * values)
    mean = jnp.sum(jnp.exp(logprobs) * values, -1)
    if relaxation == "expectation":
      return mean.sum()
    then = jnp.sum(jnp.exp(start) * values, -1)
    own = jnp.take_along_axis(logprobs, CODES[..., None], -1)[..., 0]
    return jnp.sum(mean - then * own) / 2

  np.testing.assert_allclose(
    jax.grad(total)(SOME), jax.grad(frozen)(SOME), rtol=1e-5, atol=1e-6
  )
  check_grads(frozen, (SOME,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_the_noise_is_that_of_the_sampled_code():
  """The largest is Gumbel distributed whatever the code, and the code's."""
  keys = jax.random.split(jax.random.key(7), (1, 4000, 5))
  codes = jnp.broadcast_to(jnp.arange(5), (1, 4000, 5))
  logprobs = jnp.broadcast_to(jax.nn.log_softmax(LOGITS), (1, 4000, 5, 5))
  found = np.asarray(pathwise.posterior_gumbel(logprobs, codes, keys))[0]
  np.testing.assert_array_equal(found.argmax(-1), codes[0])
  # Euler's constant, to four standard errors of pi / sqrt 6.
  error = 4 * np.pi / np.sqrt(6 * 4000)
  np.testing.assert_allclose(found.max(-1).mean(0), 0.57722, atol=error)
  # Over codes as likely as they are, all is as if none were known.
  free = np.asarray(LOGITS - jax.nn.logsumexp(LOGITS)) + 0.57722
  mixed = np.einsum("c,ncd->nd", np.exp(free - 0.57722), found)
  error = 4 * mixed.std(0) / np.sqrt(4000)
  assert (np.abs(mixed.mean(0) - free) < error).all()


def test_posterior_noise_gives_the_gradient_of_free_noise():
  """Straight-through Gumbel-softmax as published, by many samples of both."""
  samples, temperature = 4000, 0.7

  def soft(logits, noise):
    return linear(jax.nn.softmax((logits + noise) / temperature) @ BOOK)

  noise = jax.random.gumbel(jax.random.key(8), (samples, 5))
  free = jax.vmap(jax.grad(soft), (None, 0))(LOGITS, noise)  # [samples, C]
  keys = jax.random.split(jax.random.key(9), (samples, 1, 5, 1))
  given = jax.vmap(lambda keys: expected(linear, "gumbel", keys, temperature))(
    keys
  )
  error = np.sqrt((free.var(0) + given.var(0)) / samples)
  assert (np.abs(free.mean(0) - given.mean(0)) < 4 * error).all()


@pytest.mark.parametrize("relaxation", pathwise.RELAXATIONS)
def test_a_code_that_is_cut_off_stays_out(relaxation):
  keep = jnp.arange(5).reshape(1, 1, 1, 5) == CODES[..., None]
  slopes = Slopes(jnp.ones((4, 3, 2, 2)), KEYS)

  def total(logits, keep):
    logprobs = jax.nn.log_softmax(jnp.where(keep, logits, -jnp.inf))
    return pathwise.surrogate(
      options(relaxation), logprobs, CODES, slopes, BOOK
    ).sum()

  # One code alone: nothing to gain.
  value, slope = jax.value_and_grad(total)(SOME, keep)
  assert value == 0
  assert not np.any(slope)
  keep = keep | (jnp.arange(5).reshape(1, 1, 1, 5) < 3)
  value, slope = jax.value_and_grad(total)(SOME, keep)
  assert np.isfinite(value)
  assert np.all(np.isfinite(slope))
  assert not np.any(np.where(keep, 0, slope))
  assert np.any(slope)


REWARDS = {
  "future": jnp.asarray([[0.1, 0.3], [0.6, 0.2]]),  # deviations .1 and .2
  "copy": jnp.asarray([[jnp.nan, 0.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize(
  ("normalise", "advantage", "expected"),
  [
    ("none", "grpo", [[2, 2], [2, 2]]),
    ("batch", "rloo", [[2 / 0.15] * 2] * 2),
    # Then by the sum's: 2 r / .15 has deviations 4/3 and 8/3, 2 on average.
    ("batch", "grpo", [[1 / 0.15] * 2] * 2),
    # 2 r over its deviation has a deviation of 2 in both groups.
    ("group", "grpo", [[1 / 0.1] * 2, [1 / 0.2] * 2]),
  ],
)
def test_how_much_of_the_whole_a_reward_is(normalise, advantage, expected):
  found = pathwise.reward_slopes(
    REWARDS,
    {"future": 2.0, "copy": 0.0},
    normalise=normalise,
    advantage=advantage,
  )
  assert found.keys() == {"future"}
  np.testing.assert_allclose(found["future"], expected, rtol=1e-5)


def test_a_group_that_is_left_out_counts_nowhere():
  rewards = {"future": jnp.asarray([[0.1, 0.3], [jnp.nan, 0.2]])}
  found = pathwise.reward_slopes(
    rewards,
    {"future": 2.0},
    normalise="batch",
    advantage="rloo",
    kept=jnp.asarray([True, False]),
  )
  np.testing.assert_allclose(found["future"], [[20, 20], [0, 0]], rtol=1e-5)


def test_the_mixture_is_as_long_as_the_advantages():
  """Units of groups are the score estimator's own: A = slope r + constant."""
  rewards = {"future": REWARDS["future"], "text": REWARDS["future"][:, ::-1]}
  weights = {"future": 2.0, "text": 0.5}
  found = pathwise.reward_slopes(
    rewards, weights, normalise="group", advantage="grpo"
  )
  values, _ = pathwise.advantages.combine(
    rewards, weights, normalise="group", advantage="grpo"
  )
  total = sum(found[name] * rewards[name] for name in rewards)
  np.testing.assert_allclose(
    total - total.mean(1, keepdims=True), values, rtol=1e-4
  )


def test_estimators_are_options():
  rest = {"relaxation": "gumbel", "temperature": 0.5, "normalise": "batch"}
  assert pathwise.from_options("score", share=0.3, **rest) is None
  assert pathwise.from_options("both", share=0.3, **rest).share == 0.3
  assert pathwise.from_options("pathwise", share=0.3, **rest).share == 1.0


@pytest.mark.parametrize(
  ("estimator", "weights", "message"),
  [
    ("score", {"outside": 1.0}, None),
    ("pathwise", {"text": 1.0, "outside": 0.0}, None),
    ("both", {"text": 1.0, "outside": 1.0}, None),
    ("pathwise", {"text": 1.0, "outside": 1.0}, "weights of outside, which"),
    ("both", {"text": 0.0, "outside": 1.0}, "outside alone, which have no"),
    ("both", {"text": 0.0, "outside": 0.0}, None),  # refused elsewhere
  ],
)
def test_rewards_without_a_gradient_are_refused(estimator, weights, message):
  found = pathwise.contradictions(estimator, weights, {"outside"})
  assert len(found) == bool(message)
  if message:
    assert message in found[0]
