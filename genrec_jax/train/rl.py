"""Online RL in one graph: rollout, pixels, rewards, advantages, update.

    prompt -> G samples x I codes -> pixels -> CLIP -> rewards -> advantages
           -> policy gradient + KL to the frozen reference -> new parameters

`train_step` is one function for `jax.jit`: nothing of a rollout leaves the
device, and a group's samples share the prefix of their prompt in sampling, in
the policy pass and in the reference pass.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genrec_jax import objectives, rewards, sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Batch, PyTree, TrainState
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.nn import lora
from genrec_jax.train import microbatch, setup


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  clip: Clip,
  optimizer: optax.GradientTransformation,
  to_rollout_layout: Callable[[PyTree], PyTree],
  seed: int,
  microbatches: int,
  sample: sampling.Sampling,
  reward: Mapping[str, Any],
  weights: Mapping[str, float],
  normalise: str,
  objective: Mapping[str, Any],
  advantage: str,
  scoring: str,
  stop_unconditional_gradient: bool,
  inner_epochs: int,
  sampler_weight_cap: float,
  kl_of: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one on-policy step.

  Args:
    state: trainable parameters, optimizer state, step; donated by the caller.
    frozen: 'generator' (the rest of its parameters), 'clip', and with a KL
      term 'reference' (see `reference`).
    batch: P windows.
    model: the generator.
    clip: the reward model.
    optimizer: of the trainable parameters.
    to_rollout_layout: lays out parameters for the decode loop.
    seed: of the run; the step's key is folded from it.
    microbatches: equal parts of the P that the passes over given codes, whose
      gradients need the memory, take one after another.
    sample: how images are sampled.
    reward: options of `rewards.score`.
    weights: of each reward, by name.
    normalise: see `rewards.advantages`.
    objective: options of `objectives.policy_loss`.
    advantage: see `objectives.advantages`.
    scoring: 'guided', the distribution sampled from; 'conditional' leaves
      guidance out of ratio and KL, as T2I-R1 does.
    stop_unconditional_gradient: see `sampling.score_images`.
    inner_epochs: updates on one rollout, >= 1. The old policy of all of them
      is what the first one's own pass scores: in bfloat16 the decode loop
      rounds otherwise, and guidance multiplies the difference, so its numbers
      are watched and never the ratio's denominator.
    sampler_weight_cap: see `objectives.truncated_weights`; 0: no such weights.
      Only with guided scoring, that of the sampler.
    kl_of: 'scored', the distribution that is scored; 'branches', each of
      guidance's two by itself. The first has a null space: a drift of the
      unconditional branch u by d and of the conditional one c by
      d (guidance - 1) / guidance leaves u + guidance (c - u) as it was.

  Returns:
    The next state, and metrics: float32 scalars.

  Raises:
    ValueError: an unknown `scoring` or `kl_of`, or one that does not go with
      the other options.
  """
  if scoring not in objectives.SCORINGS:
    raise ValueError(
      f"scoring={scoring!r}: expected one of {', '.join(objectives.SCORINGS)}"
    )
  guided = scoring == "guided"
  if sampler_weight_cap and not guided:
    raise ValueError(
      f"sampler_weight_cap={sampler_weight_cap} with scoring='conditional':"
      " expected 0, the sampler's distribution is another"
    )
  if kl_of not in objectives.KL_OF:
    raise ValueError(
      f"kl_of={kl_of!r}: expected one of {', '.join(objectives.KL_OF)}"
    )
  if kl_of == "branches" and (not guided or not sample.guided):
    raise ValueError(
      "kl_of='branches' scores both branches of guidance: expected"
      " scoring='guided' and a guidance other than 1"
    )
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  rest = frozen["generator"]
  params = tree.merge(state.params, rest)
  rollout = sampling.sample_images(
    model,
    sampling.rollout_params(model, params, to_rollout_layout),
    batch.prompt,
    key,
    sample,
  )
  pixels = sampling.decode_images(model, params, rollout.codes)
  raw = rewards.score(
    clip.embed_images(frozen["clip"], pixels),
    rewards.embed_targets(clip, frozen["clip"], batch),
    **reward,
  )
  advantages, contributions = rewards.advantages(
    raw, weights, normalise=normalise, advantage=advantage
  )

  # Without guidance ratio and KL are of the conditional branch alone.
  scored = sample if guided else dataclasses.replace(sample, guidance=1.0)

  def score(trainable, prompt, codes):
    return sampling.score_images(
      model,
      tree.merge(trainable, rest),
      prompt,
      codes,
      scored,
      stop_unconditional_gradient=stop_unconditional_gradient,
      branches=bool(objective["kl_weight"]),
    )

  given, reference = {"advantages": advantages, "reference": None}, None
  if objective["kl_weight"]:
    given["reference"], _, reference = microbatch.each(
      functools.partial(score, frozen["reference"]),
      microbatches,
      batch.prompt,
      rollout.codes,
    )

  def update(carry, epoch):
    params, opt_state, behaviour = carry

    def loss_fn(trainable, prompt, codes, behaviour, sampled, given, reference):
      logprobs, entropy, branches = score(trainable, prompt, codes)
      old = jnp.where(epoch == 0, jax.lax.stop_gradient(logprobs), behaviour)
      weights = None
      if sampler_weight_cap:
        weights = objectives.truncated_weights(old, sampled, sampler_weight_cap)
      drift = None if branches is None else (branches, reference)
      loss, metrics = objectives.policy_loss(
        logprobs,
        old,
        **given,
        **objective,
        weights=weights,
        branches=drift if kl_of == "branches" else None,
      )
      metrics |= {"entropy": entropy.mean(), "behaviour": old}
      if drift:
        metrics["kl_conditional"] = objectives.kl(
          "k3", *(jax.lax.stop_gradient(x[..., 0]) for x in drift)
        ).mean()
      return loss, metrics

    (loss, metrics), grads = microbatch.value_and_grad(
      loss_fn,
      microbatches,
      params,
      batch.prompt,
      rollout.codes,
      behaviour,
      rollout.logprobs,
      given,
      reference,
    )
    behaviour = metrics.pop("behaviour")
    updates, opt_state = optimizer.update(grads, opt_state, params)
    metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    params = optax.apply_updates(params, updates)
    return (params, opt_state, behaviour), metrics

  (params, opt_state, behaviour), epochs = jax.lax.scan(
    update,
    (state.params, state.opt_state, jnp.zeros_like(rollout.logprobs)),
    jnp.arange(inner_epochs),
  )
  metrics = {name: values.mean() for name, values in epochs.items()}
  metrics["ratio_max_deviation"] = epochs["ratio_max_deviation"].max()
  if guided:  # otherwise another distribution is scored than was sampled from
    metrics |= objectives.sampler_mismatch(
      behaviour,
      rollout.logprobs,
      **{k: objective[k] for k in ("ratio", "clip_low", "clip_high")},
    )
  metrics["reward"] = sum(
    weight * raw[name].mean() for name, weight in weights.items()
  )
  metrics |= rewards.statistics(raw) | contributions
  return TrainState(state.step + 1, params, opt_state), metrics


def make_step(config, plan: setup.Plan):
  """Returns the step of a config: (state, frozen, batch) -> ..."""
  return functools.partial(
    train_step,
    model=plan.model,
    clip=plan.clip,
    optimizer=plan.optimizer,
    to_rollout_layout=plan.to_rollout_layout,
    seed=config.seed,
    microbatches=config.data.microbatches,
    sample=sampling.Sampling(**config.sample),
    reward=dict(config.reward),
    weights=dict(config.weights),
    objective=dict(config.objective),
    **config.rl,
  )


def reference(config, plan: setup.Plan) -> dict[str, PyTree]:
  """Returns shapes, types and shardings of the KL's reference, by its name.

  It is what is trained as it starts, in the type that every use casts to.
  What is trained of a run with adapters adds nothing at its start: the frozen
  parameters alone are its reference, and no weight is held twice. Without a KL
  term there is none.
  """
  if not config.objective.kl_weight:
    return {}
  start = lora.without(plan.state.params)
  types = jax.eval_shape(functools.partial(setup.as_used, plan.model), start)
  return {
    "reference": jax.tree.map(
      lambda x, used: jax.ShapeDtypeStruct(
        x.shape, used.dtype, sharding=x.sharding
      ),
      start,
      types,
    )
  }


def run(config, workdir: str) -> None:
  """Trains with RL from `config.model.checkpoint`; see configs/rl.py."""
  parts = setup.build(
    config,
    sample=sampling.Sampling(
      **dict(config.sample, num_samples=config.eval.samples)
    ),
    copy_threshold=config.reward.copy_threshold,
  )
  frozen, kept = parts.frozen, reference(config, parts.plan)
  if kept:
    # Copied also where types are equal: a step gives its parameters away.
    copy = jax.jit(
      lambda params: setup.as_used(
        parts.plan.model, jax.tree.map(jnp.copy, params)
      ),
      out_shardings=jax.tree.map(lambda x: x.sharding, kept["reference"]),
    )
    kept = {"reference": copy(lora.without(parts.state.params))}
  frozen = frozen | kept
  setup.train(
    config,
    workdir,
    parts,
    frozen,
    make_step(config, parts.plan),
    headline="reward",
  )
