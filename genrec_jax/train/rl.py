"""Online RL in one graph: rollout, pixels, rewards, advantages, update.

    prompt -> G samples x I codes -> pixels -> CLIP -> rewards -> advantages
           -> policy gradient + KL to the frozen reference -> new parameters

`train_step` is one function for `jax.jit`: nothing of a rollout leaves the
device, and a group's samples share the prefix of their prompt in sampling, in
the policy pass and in the reference pass.
"""

from collections.abc import Mapping
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
from genrec_jax.train import setup


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  clip: Clip,
  optimizer: optax.GradientTransformation,
  gather,
  seed: int,
  sample: Mapping[str, Any],
  reward: Mapping[str, Any],
  weights: Mapping[str, float],
  normalise: str,
  objective: Mapping[str, Any],
  advantage: str,
  scoring: str,
  stop_unconditional_gradient: bool,
  inner_epochs: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one on-policy step.

  Args:
    state: trainable parameters, optimizer state, step; donated by the caller.
    frozen: 'generator' (the rest of its parameters), 'clip', 'reference' (the
      trainable parameters as they were at the start).
    batch: P windows.
    model: the generator.
    clip: the reward model.
    optimizer: of the trainable parameters.
    gather: lays out parameters for the decode loop.
    seed: of the run; the step's key is folded from it.
    sample: options of `sampling.sample_images`.
    reward: options of `rewards.score`.
    weights: of each reward, by name.
    normalise: see `rewards.combine`.
    objective: options of `objectives.policy_loss`.
    advantage: see `objectives.advantages`.
    scoring: 'guided', the distribution sampled from; 'conditional' leaves
      guidance out of ratio and KL, as T2I-R1 does.
    stop_unconditional_gradient: see `sampling.score_images`.
    inner_epochs: updates on one rollout, >= 1.

  Returns:
    The next state, and metrics: float32 scalars.

  Raises:
    ValueError: an unknown `scoring`.
  """
  if scoring not in ("guided", "conditional"):
    raise ValueError(f"scoring={scoring!r}: expected 'guided' or 'conditional'")
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  rest = frozen["generator"]
  params = tree.merge(state.params, rest)
  rollout = sampling.sample_images(
    model,
    sampling.rollout_params(model, params, gather),
    batch.prompt,
    key,
    **sample,
  )
  pixels = sampling.decode_images(model, params, rollout.codes)
  raw = rewards.score(
    clip.embed_images(frozen["clip"], pixels),
    rewards.embed_targets(clip, frozen["clip"], batch),
    **reward,
  )
  advantages = objectives.advantages(
    advantage, rewards.combine(raw, weights, normalise)
  )

  def score(trainable):
    return sampling.score_images(
      model,
      tree.merge(trainable, rest),
      batch.prompt,
      rollout.codes,
      guidance=sample["guidance"] if scoring == "guided" else 1.0,
      temperature=sample["temperature"],
      top_k=sample["top_k"],
      top_p=sample["top_p"],
      stop_unconditional_gradient=stop_unconditional_gradient,
    )

  reference = score(frozen["reference"])[0] if objective["kl_weight"] else None
  behaviour = (
    rollout.logprobs if scoring == "guided" else score(state.params)[0]
  )

  def loss_fn(trainable):
    logprobs, entropy = score(trainable)
    loss, metrics = objectives.policy_loss(
      logprobs,
      jax.lax.stop_gradient(behaviour),
      reference,
      advantages,
      **objective,
    )
    return loss, metrics | {"entropy": entropy.mean()}

  def update(carry, _):
    params, opt_state = carry
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    return (optax.apply_updates(params, updates), opt_state), metrics

  (params, opt_state), epochs = jax.lax.scan(
    update, (state.params, state.opt_state), length=inner_epochs
  )
  metrics = {name: values.mean() for name, values in epochs.items()}
  # Before the first update the ratio must be 1: anything else means that what
  # is scored is not what was sampled.
  deviations = epochs["ratio_max_deviation"]
  metrics["ratio_error_at_start"] = deviations[0]
  metrics["ratio_max_deviation"] = deviations.max()
  metrics["reward"] = sum(
    weight * raw[name].mean() for name, weight in weights.items()
  )
  metrics |= rewards.statistics(raw)
  return TrainState(state.step + 1, params, opt_state), metrics


def run(config, workdir: str) -> None:
  """Trains with RL from `config.model.checkpoint`; see configs/rl.py."""
  parts = setup.build(
    config,
    sample=dict(config.sample, num_samples=config.eval.samples),
    copy_threshold=config.reward.copy_threshold,
  )
  frozen = parts.frozen | {
    "reference": jax.tree.map(jnp.copy, parts.state.params)
  }
  step = functools.partial(
    train_step,
    model=parts.model,
    clip=parts.clip,
    optimizer=parts.optimizer,
    gather=parts.gather,
    seed=config.seed,
    sample=dict(config.sample),
    reward=dict(config.reward),
    weights=dict(config.weights),
    objective=dict(config.objective),
    **config.rl,
  )
  setup.train(
    config,
    workdir,
    parts,
    frozen,
    step,
    headline="reward",
  )
