r"""Pathwise estimators: reward gradients through the image.

The score estimator asks only how good a whole image was. But images are
decoded from a vector per code, e(c), and rewards R are differentiable functions
of images, so each place i of a sampled image also has a slope

    g_i = dR / d e(c_i)                                          [E]

and with it an estimate, to first order, of what any other code c' would have
been worth there: v_i(c') = g_i . (e(c') - e(c_i)). All estimators here are
those values, held constant, under the policy's distribution p_i at that place,
given the codes before it:

    expectation    s_i = sum_c' p_i(c') v_i(c')
    second_order   s_i = (E[v_i] - stop(E[v_i]) log p_i(c_i)) / 2,
                   E[v_i] = sum_c' p_i(c') v_i(c')
    gumbel         s_i = sum_c' softmax((log p_i + noise_i) / temperature)(c')
                         v_i(c')

The gradient of the sum of all s_i estimates that of the expected reward.

- expectation is the straight-through gradient (arXiv 1308.3432) without the
  noise of a relaxed sample. Without bias where codes are independent and R is
  linear in each e(c_i).
- second_order is ReinMax (arXiv 2304.08612), Heun's method in place of Euler's.
  With f(c) the reward of code c at place i, the gradient is
  sum_a sum_b p(b) (f(a) - f(b)) dp(a); the trapezoid
  f(a) - f(b) ~ (f'(a) + f'(b)) . (e(a) - e(b)) / 2 splits it into two terms.
  f' at the sampled code is known, so each is an expectation over samples: that
  of f'(b) is half of `expectation`; that of f'(a) is a score with the local
  advantage f'(a) . (e(a) - E[e]) = -E[v], without the noise that the rest of
  the image adds to a whole reward. Without bias where R is quadratic in each.
- gumbel is the straight-through Gumbel-softmax (arXiv 1611.01144). Its noise is
  sampled from its posterior given the sampled code, so the argmax is the code
  of the rollout (arXiv 1411.0030, section 3; 2010.04838). A low temperature has
  little bias and much variance.

None sees that a code changes the distribution of the codes after it: places
count one by one, with the rest of the image as it was sampled. That bias the
score estimator does not have; `tests/train/enumerable_test.py` measures both.

Nothing is decoded for this but the sampled image, and no decoder is in the
policy's pass: slopes are constants, [P, G, I, E] with E = 8 for Janus-Pro.
Letters: P prompts, G samples per prompt, I codes per image, C codebook, E width
of a codebook vector.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax.core.errors import lookup
from genrec_jax.groups import at_least_float32
from genrec_jax.objectives import advantages

# score: samples weighed by their advantages; pathwise: slopes of rewards; both:
# a mixture of the two gradients.
ESTIMATORS = ("score", "pathwise", "both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pathwise:
  """How reward gradients enter the loss; config's section `pathwise`.

  Attributes:
    share: of the pathwise gradient in that of the rewards, in (0, 1]; the score
      estimator has the rest.
    relaxation: of RELAXATIONS.
    temperature: of 'gumbel', > 0.
    normalise: see `reward_slopes`.
  """

  share: float
  relaxation: str
  temperature: float
  normalise: str


class Slopes(NamedTuple):
  """What the rewards say of each code's vector; constants to the gradient."""

  vectors: jax.Array  # [P, G, I, E], of the weighted rewards
  keys: jax.Array | None  # [P, G, I] of the Gumbel noise


def from_options(
  estimator: str, *, share: float, **options: Any
) -> Pathwise | None:
  """Returns how an estimator uses slopes; None for 'score', which does not.

  Args:
    estimator: of ESTIMATORS.
    share: of `Pathwise`, for 'both'.
    **options: the others of `Pathwise`.
  """
  if estimator == "score":
    return None
  share = 1.0 if estimator == "pathwise" else share
  return Pathwise(share=share, **options)


def contradictions(
  estimator: str,
  weights: Mapping[str, float],
  without_gradient: Collection[str],
) -> list[str]:
  """Returns what is wrong with an estimator, a line for each problem.

  Refused are weighted rewards that have no gradient where nothing else would
  learn from them, and 'both' where no reward has one.

  Args:
    estimator: of ESTIMATORS.
    weights: of the rewards, by name.
    without_gradient: the rewards that are no differentiable functions.
  """
  if estimator == "score":
    return []
  used = [name for name, weight in weights.items() if weight]
  deaf = [name for name in used if name in without_gradient]
  if estimator == "pathwise" and deaf:
    return [
      f"estimator='pathwise' with weights of {', '.join(deaf)}, which have no"
      " gradient: nothing would learn from them; use 'both' or 'score', or"
      " weights of 0"
    ]
  if used and used == deaf:
    return [
      f"estimator='both' with weights of {', '.join(deaf)} alone, which have no"
      " gradient: expected 'score'"
    ]
  return []


def reward_slopes(
  rewards: Mapping[str, jax.Array],  # [P, G] each
  weights: Mapping[str, advantages.Weight],
  *,
  normalise: str,
  advantage: str,
  kept: jax.Array | None = None,  # [P] bool
) -> dict[str, jax.Array]:
  """Returns how much of what is maximised a unit of each raw reward is.

  What the pathwise estimators maximise is the mean over prompts and samples of

      sum over rewards r of  weight_r r / (unit_r unit)

  where `unit_r` is that of reward r and `unit` that of the sum of all
  weight_r r / unit_r, or 1 where the advantage is not standardised. Units are
  constants to the gradient; there is no baseline, which would be a constant
  too. By `normalise` a unit is

  - batch: the mean over the step's groups of the deviation within a group, so
    that the gradient is about as long as that of the standardised advantages;
  - group: that of the sample's own group. One whose samples are nearly alike
    then counts up to 1 / `groups.FLOOR` times, which the score estimator, with
    its equal rewards, leaves out;
  - none: 1, raw rewards.

  Args:
    rewards: name -> [P, G], of all prompts of the step.
    weights: name -> weight, the same names.
    normalise: of `advantages.NORMALISATIONS`.
    advantage: of `advantages.ADVANTAGES`, that of the score estimator.
    kept: [P] bool, False = a group that is left out, whose rewards may be NaN:
      0; None: all are kept.

  Returns:
    name -> [P, G], of the rewards with a weight.
  """
  unit = lookup("normalise", advantages.NORMALISATIONS, normalise)
  used = {
    name: at_least_float32(rewards[name])
    for name, weight in weights.items()
    if advantages.given(weight)
  }
  rows = jnp.ones((1, 1), bool) if kept is None else kept[:, None]  # [P, 1]
  used = {k: jnp.where(rows, v, 0.0) for k, v in used.items()}
  # [P or 1, 1] each.
  scaled = {k: weights[k] / unit(v, kept) for k, v in used.items()}
  total = sum((scaled[k] * used[k] for k in used), jnp.zeros((1, 1)))  # [P, G]
  if lookup("advantage", advantages.ADVANTAGES, advantage).standardised:
    whole = unit(total, kept)  # [P or 1, 1]
    scaled = {k: v / whole for k, v in scaled.items()}
  return jax.lax.stop_gradient(
    {
      k: jnp.broadcast_to(jnp.where(rows, v, 0.0), used[k].shape)
      for k, v in scaled.items()
    }
  )


def surrogate(
  options: Pathwise,
  logprobs: jax.Array,  # [P, G, I, C]
  codes: jax.Array,  # [P, G, I]
  slopes: Slopes,
  code_vectors: jax.Array,  # [C, E]
) -> jax.Array:
  """Returns s_i of each code, whose sum has the estimate as its gradient.

  Args:
    options: the relaxation and its temperature.
    logprobs: [P, G, I, C] of the policy; the gradient flows here. -inf where a
      code is cut off.
    codes: [P, G, I] int32, sampled.
    slopes: of the rewards at these codes.
    code_vectors: [C, E], what the decoder reads for each code.

  Returns:
    [P, G, I] float32. 0 where the distribution is one code, or a slope is 0.

  Raises:
    UserError: an unknown relaxation.
  """
  relax = lookup("relaxation", RELAXATIONS, options.relaxation)
  # A TPU's default would round to the 4e-3 that codes differ by.
  values = jnp.einsum(
    "pgie,ce->pgic",
    at_least_float32(slopes.vectors),
    at_least_float32(code_vectors),
    precision=jax.lax.Precision.HIGHEST,
  )  # [P, G, I, C]
  values -= jnp.take_along_axis(values, codes[..., None], -1)
  values = jax.lax.stop_gradient(values)
  return relax(options, at_least_float32(logprobs), codes, slopes.keys, values)


def _expectation(
  options: Pathwise,
  logprobs: jax.Array,  # [P, G, I, C]
  codes: jax.Array,  # [P, G, I]
  keys: jax.Array | None,
  values: jax.Array,  # [P, G, I, C]
) -> jax.Array:  # [P, G, I]
  del options, codes, keys
  return jnp.sum(jnp.exp(logprobs) * values, -1)


def _second_order(
  options: Pathwise,
  logprobs: jax.Array,
  codes: jax.Array,
  keys: jax.Array | None,
  values: jax.Array,
) -> jax.Array:
  mean = _expectation(options, logprobs, codes, keys, values)
  chosen = jnp.take_along_axis(logprobs, codes[..., None], -1)[..., 0]
  # The sampled code's own value is 0: its local advantage is minus the mean.
  return (mean - jax.lax.stop_gradient(mean) * chosen) / 2


def _gumbel(
  options: Pathwise,
  logprobs: jax.Array,
  codes: jax.Array,
  keys: jax.Array | None,
  values: jax.Array,
) -> jax.Array:
  perturbed = posterior_gumbel(logprobs, codes, keys)
  # Where cut off both are -inf, and the code stays out.
  noise = jnp.where(jnp.isfinite(logprobs), perturbed - logprobs, 0.0)
  noisy = logprobs + jax.lax.stop_gradient(noise)
  return jnp.sum(jax.nn.softmax(noisy / options.temperature) * values, -1)


RELAXATIONS: Mapping[str, Callable[..., jax.Array]] = {
  "expectation": _expectation,
  "second_order": _second_order,
  "gumbel": _gumbel,
}


def posterior_gumbel(
  logprobs: jax.Array,  # [P, G, I, C]
  codes: jax.Array,  # [P, G, I]
  keys: jax.Array | None,  # [P, G, I]
) -> jax.Array:
  """Samples log p + Gumbel noise, given that the sampled code has the largest.

  The largest of log p + noise is Gumbel distributed whichever code has it; the
  others follow their own Gumbel cut off there. Source: Maddison et al., "A*
  sampling", arXiv 1411.0030, section 3.

  Args:
    logprobs: [P, G, I, C] normalised; -inf where cut off.
    codes: [P, G, I] int32, not cut off.
    keys: [P, G, I] PRNG keys: a code's noise is its own, whatever the parts in
      which a batch is taken.

  Returns:
    [P, G, I, C] float32, its argmax is `codes`.
  """
  assert keys is not None
  size = logprobs.shape[-1]
  sample = jax.vmap(lambda key: jax.random.gumbel(key, (size + 1,)))
  noise = sample(keys.reshape(-1)).reshape(*codes.shape, size + 1)
  largest = noise[..., -1:]  # [P, G, I, 1]
  free = logprobs + noise[..., :-1]  # [P, G, I, C], as if nothing were known
  others = -jnp.logaddexp(-largest, -free)
  chosen = jnp.arange(size).reshape(1, 1, 1, -1) == codes[..., None]
  return jnp.where(chosen, largest, others)
