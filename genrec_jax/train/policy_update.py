"""Policy update: gradient steps on one rollout, near a frozen reference.

Answers are images, or titles and images; each part has its own loss, from the
same advantages. Letters: P prompts, G samples per prompt, I codes per image,
B branches of guidance, W tokens of a title (0 without).
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genrec_jax import objectives, sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Prompt, PyTree, Title, TrainState
from genrec_jax.groups import mean_of_tokens
from genrec_jax.models.api import Generator
from genrec_jax.objectives import entropy, kl, mismatch, pathwise, policy
from genrec_jax.sampling.scoring import Scores
from genrec_jax.train import microbatch
from genrec_jax.train import slopes as slopes_lib
from genrec_jax.train.rl_options import RLOptions

# (trainable parameters, prompts, codes[, slopes[, title]]) -> their scores
Score = Callable[..., Scores]
Metrics = dict[str, jax.Array]


class Experience(NamedTuple):
  """What a rollout leaves to learn from; constants to the gradient."""

  prompt: Prompt  # P prompts
  codes: jax.Array  # [P, G, I] int32
  sampled: jax.Array  # [P, G, I] log-probabilities that the sampler reported
  advantages: jax.Array  # [P, G]
  slopes: pathwise.Slopes | None = None  # [P, G, I, ...]; None: not used
  title: Title | None = None  # before the image; None: there is none
  title_sampled: jax.Array | None = None  # [P, G, W], as `sampled`


class RefScores(NamedTuple):
  """Log-probabilities of the codes under the frozen reference."""

  logprobs: jax.Array  # [P, G, I]
  branches: jax.Array  # [P, G, I, B]
  title: "RefScores | None" = None  # [P, G, W] and one branch


def update_policy(
  state: TrainState,
  frozen: PyTree,
  experience: Experience,
  *,
  model: Generator,
  optimizer: optax.GradientTransformation,
  options: RLOptions,
) -> tuple[TrainState, Metrics]:
  """Takes `inner_epochs` optimizer updates on one rollout.

  Args:
    state: trainable parameters, optimizer state, step.
    frozen: 'generator_rest', and 'reference' where the objective has a KL.
    experience: of P prompts.
    model: the generator.
    optimizer: of the trainable parameters.
    options: see `RLOptions`.

  Returns:
    The next state, and metrics [] float32: means over epochs and microbatches.
  """
  # Of this step: the KL's weight may change.
  objective = options.objective.at(state.step)
  options = dataclasses.replace(options, objective=objective)
  score = make_score(model, frozen["generator_rest"], options)
  ref = None
  if options.objective.kl_weight:
    ref = score_reference(score, frozen["reference"], experience, options)

  def epoch(carry, index):
    params, opt_state, old_logprobs = carry
    loss_fn = functools.partial(
      epoch_loss, score=score, epoch=index, options=options
    )
    (loss, metrics), grads = microbatch.value_and_grad(
      loss_fn, options.microbatches, params, experience, old_logprobs, ref
    )
    # Carried to the next epoch, whose ratio starts from it.
    old_logprobs = metrics.pop("old_logprobs")  # [P, G, W + I]
    with jax.named_scope("update"):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
    metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return (params, opt_state, old_logprobs), metrics

  # [P, G, W + I], not looked at before the first epoch has scored.
  unknown = jnp.zeros_like(
    _joined(experience.title_sampled, experience.sampled)
  )
  (params, opt_state, old_logprobs), epochs = jax.lax.scan(
    epoch,
    (state.params, state.opt_state, unknown),
    jnp.arange(options.inner_epochs),
  )  # each metric [inner_epochs, microbatches]
  metrics = {name: values.mean() for name, values in epochs.items()}
  # A mean of maxima would hide the epoch that went too far.
  for name in ("ratio_max_deviation", "title_ratio_max_deviation"):
    if name in epochs:
      metrics[name] = epochs[name].max()
  if objective.kl_schedule:
    metrics["kl_weight"] = objective.kl_weight * objective.kl_factor
  of_title, of_image = _parted(old_logprobs, experience)
  # Conditional scores are of another distribution than was sampled from.
  if options.scoring == "guided":
    metrics |= mismatch.sampler_mismatch(
      options.objective, of_image, experience.sampled
    )
  if experience.title is not None:  # which guidance has no part in
    assert experience.title_sampled is not None
    metrics |= _of_title(
      mismatch.sampler_mismatch(
        options.objective,
        of_title,
        experience.title_sampled,
        experience.title.written,
      )
    )
  return TrainState(state.step + 1, params, opt_state), metrics


def make_score(model: Generator, rest: PyTree, options: RLOptions) -> Score:
  """Returns what scores codes under trainable parameters.

  Policy and reference are scored by the same computation, so that their
  difference is not one of rounding.

  Args:
    model: the generator.
    rest: its parameters that are not trained.
    options: the distribution that is scored.
  """

  def score(
    trainable: PyTree,
    prompt: Prompt,
    codes: jax.Array,
    slopes: pathwise.Slopes | None = None,
    title: Title | None = None,
  ) -> Scores:
    params = tree.merge(trainable, rest)
    extra = None
    if options.pathwise is not None and slopes is not None:
      table = model.code_vectors(params)  # [C, E]
      extra = slopes_lib.scored_with(options.pathwise, table, slopes)
    return sampling.score_images(
      model,
      params,
      prompt,
      codes,
      options.scored,
      title=title,
      stop_unconditional_gradient=options.stop_unconditional_gradient,
      # Only a KL compares branches; without one they would cost memory.
      branches=bool(options.objective.kl_weight),
      extra=extra,
    )

  return score


@jax.named_scope("reference")
def score_reference(
  score: Score, reference: PyTree, experience: Experience, options: RLOptions
) -> RefScores:
  """Scores the rollout's answers under the frozen reference."""
  scores = microbatch.map_prompts(
    functools.partial(score, reference),
    options.microbatches,
    experience.prompt,
    experience.codes,
    # Without slopes.
    *([] if experience.title is None else [None, experience.title]),
  )
  title = scores.title
  return RefScores(
    scores.logprobs,
    scores.branches,
    None if title is None else RefScores(title.logprobs, title.branches),
  )


@jax.named_scope("policy")
def epoch_loss(
  trainable: PyTree,
  experience: Experience,
  old_logprobs: jax.Array,
  ref: RefScores | None,
  *,
  score: Score,
  epoch: jax.Array,
  options: RLOptions,
) -> tuple[jax.Array, Metrics]:
  """Returns the loss of one epoch and its metrics.

  The old policy of all epochs is what the first one's own pass scores: in
  bfloat16 the decode loop rounds otherwise, and guidance multiplies the
  difference, so the sampler's numbers are watched and never the ratio's
  denominator.

  Args:
    trainable: parameters that the gradient is of.
    experience: of P prompts.
    old_logprobs: [P, G, W + I] of the first epoch; in that itself not looked
      at.
    ref: of the reference; None without a KL.
    score: of the policy.
    epoch: [] int, 0 for the first.
    options: see `RLOptions`.

  Returns:
    The loss [] and metrics [], with `old_logprobs` [P, G, W + I] among them;
    those of a title's tokens are `title_...`.
  """
  scores = score(
    trainable,
    experience.prompt,
    experience.codes,
    experience.slopes,
    *([] if experience.title is None else [experience.title]),
  )
  of_title = None if scores.title is None else scores.title.logprobs
  # In the first epoch policy and old policy are one: a ratio of exactly 1.
  old_logprobs = jnp.where(
    epoch == 0,
    jax.lax.stop_gradient(_joined(of_title, scores.logprobs)),
    old_logprobs,
  )
  old_title, old_image = _parted(old_logprobs, experience)
  loss, metrics = _image_loss(scores, old_image, experience, ref, options)
  if scores.title is not None:
    ref_title = None if ref is None else ref.title
    title_loss, title_metrics = _title_loss(
      scores.title, old_title, experience, ref_title, options
    )
    weights = options.objective
    loss = weights.image_weight * loss + weights.title_weight * title_loss
    metrics |= _of_title(title_metrics)
  return loss, metrics | {"old_logprobs": old_logprobs}


def _joined(title: jax.Array | None, image: jax.Array) -> jax.Array:
  """Joins values of titles [P, G, W] and images [P, G, I]: [P, G, W + I]."""
  return image if title is None else jnp.concatenate([title, image], -1)


def _parted(
  values: jax.Array, experience: Experience
) -> tuple[jax.Array, jax.Array]:
  """Undoes `_joined`: returns (title, image); W = 0 without titles."""
  length = values.shape[-1] - experience.codes.shape[-1]
  return values[..., :length], values[..., length:]


def _of_title(metrics: Metrics) -> Metrics:
  """Returns metrics under the names of those of a title's tokens."""
  return {f"title_{name}": value for name, value in metrics.items()}


def _title_loss(
  scores: Scores,
  old_logprobs: jax.Array,
  experience: Experience,
  ref: RefScores | None,
  options: RLOptions,
) -> tuple[jax.Array, Metrics]:
  """Returns the loss of titles, of what they have written, and its metrics."""
  assert experience.title is not None
  assert experience.title_sampled is not None
  written = experience.title.written  # [P, G, W]
  weights = None
  if options.sampler_weight_cap:
    weights = mismatch.truncated_weights(
      old_logprobs, experience.title_sampled, options.sampler_weight_cap
    )
  drift = None  # two [P, G, W, 1]
  if options.kl_of == "branches" and (
    ref is not None and scores.branches is not None
  ):
    drift = (scores.branches, ref.branches)
  loss, metrics = objectives.policy_loss(
    options.objective,
    scores.logprobs,
    old_logprobs,
    None if ref is None else ref.logprobs,
    experience.advantages,
    weights=weights,
    branches=drift,
    mask=written,
  )
  return loss, metrics | {"entropy": mean_of_tokens(scores.entropy, written)}


def _image_loss(
  scores: Scores,
  old_logprobs: jax.Array,
  experience: Experience,
  ref: RefScores | None,
  options: RLOptions,
) -> tuple[jax.Array, Metrics]:
  """Returns the loss of codes, with slopes and entropy, and its metrics."""
  weights = None
  if options.sampler_weight_cap:
    weights = mismatch.truncated_weights(
      old_logprobs, experience.sampled, options.sampler_weight_cap
    )
  drift = None  # two [P, G, I, B]
  if ref is not None and scores.branches is not None:
    drift = (scores.branches, ref.branches)
  advantages = experience.advantages
  if options.pathwise is not None:  # the rest of the gradient is the slopes'
    advantages = (1 - options.pathwise.share) * advantages
  loss, metrics = objectives.policy_loss(
    options.objective,
    scores.logprobs,
    old_logprobs,
    None if ref is None else ref.logprobs,
    advantages,
    weights=weights,
    branches=drift if options.kl_of == "branches" else None,
  )
  if options.pathwise is not None and scores.extra is not None:
    gains = scores.extra if weights is None else scores.extra * weights
    gain = policy.aggregate(options.objective.aggregation, gains)  # []
    loss -= options.pathwise.share * gain
    metrics["pathwise_loss"] = jax.lax.stop_gradient(-gain)
  metrics["entropy"] = scores.entropy.mean()
  if options.objective.entropy_weight:
    lacking = entropy.shortfall(
      scores.entropy, options.objective.entropy_target
    )
    loss += options.objective.entropy_weight * lacking
    metrics["entropy_shortfall"] = jax.lax.stop_gradient(lacking)
  if drift is not None:
    # The conditional branch is the first of B.
    conditional = (jax.lax.stop_gradient(x[..., 0]) for x in drift)
    metrics["kl_conditional"] = kl.estimate("k3", *conditional).mean()
  return loss, metrics
