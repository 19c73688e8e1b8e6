"""Online RL in one graph: rollout, pixels, rewards, advantages, update.

    prompt -> G samples x I codes -> pixels -> CLIP -> rewards -> advantages
           -> policy gradient + KL to the frozen reference -> new parameters

With `rl.estimator` 'pathwise' or 'both' the rewards' own gradients take the way
back through CLIP and pixels to the codes, see `train/slopes.py`.

`train_step` is one function for `jax.jit`: nothing of a rollout leaves the
device, and a group's samples share the prefix of their prompt in sampling, in
the policy pass and in the reference pass.

Letters: P prompts, G samples per prompt, I codes per image, h w pixels, E the
width of CLIP's common space.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax import rewards, sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Batch, PyTree, Title, TrainState
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.nn import lora
from genrec_jax.objectives import Objective, advantages, pathwise
from genrec_jax.targets import Targets
from genrec_jax.train import (
  looking,
  memory,
  policy_update,
  reward_encoders,
  throughput,
  trainable,
)
from genrec_jax.train import slopes as slopes_lib
from genrec_jax.train.build import build
from genrec_jax.train.plan import Plan, shardings_of
from genrec_jax.train.rl_options import Reading, RLOptions
from genrec_jax.train.run import train


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  clip: Clip,
  optimizer: optax.GradientTransformation,
  to_rollout_layout: Callable[[PyTree], PyTree],
  options: RLOptions,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one on-policy step: rollout, rewards, update.

  Args:
    state: trainable parameters, optimizer state, step; donated by the caller.
    frozen: 'generator_rest' (the generator's other parameters), 'clip' and
      'encoders' where a reward reads them, and with a KL term 'reference' (see
      `reference`).
    batch: P windows.
    model: the generator.
    clip: the reward model.
    optimizer: of the trainable parameters.
    to_rollout_layout: lays out parameters for the decode loop.
    options: how the step samples, rewards and updates.

  Returns:
    The next state, and metrics: float32 scalars.
  """
  # No key is saved: a resumed run folds in the same step.
  key = jax.random.fold_in(jax.random.key(options.seed), state.step)
  params = tree.merge(state.params, frozen["generator_rest"])
  prompt = batch.prompt
  if prompt.images.shape[1] and trainable.reads_as_frozen(model, state.params):
    with jax.named_scope("prefill"):
      # Once, for the rollout, the policy and its reference.
      read = model.read_images(params, prompt.images)  # [P, N, ...]
      prompt = dataclasses.replace(prompt, images=read)
  rollout = sampling.sample_items(
    model,
    # Gathered once, not in every iteration of the decode loop.
    sampling.rollout_params(
      model,
      params,
      to_rollout_layout,
      words=options.titles is not None,
      narrow=options.rollout_type != "compute",
    ),
    prompt,
    key,
    options.sampled,
    options.titles,
  )  # codes and logprobs [P, G, I]
  pixels = sampling.decode_images(
    model, params, rollout.codes
  )  # [P, G, h, w, 3]
  slopes = None
  with jax.named_scope("rewards"):
    views = looking.look(pixels, frozen, batch, clip, options)
    views |= looking.look_at_titles(
      rollout.title, pixels, views, model, params, frozen, clip, options
    )
    raw = rewards.score_views(views, options.rewards)  # name -> [P, G]
    weights = rewards.weights_at(options.rewards, state.step)
    values, reward_metrics = weigh_rewards(raw, weights, options)  # [P, G]
    if options.pathwise is not None:
      slopes, slope_metrics = slopes_lib.find(
        model,
        params,
        functools.partial(looking.embed, frozen, clip, options),
        rollout.codes,
        slopes_lib.embed_slopes(views, raw, weights, options),
        key,
        options,
      )
      reward_metrics |= slope_metrics
  state, metrics = policy_update.update_policy(
    state,
    frozen,
    policy_update.Experience(
      prompt,
      rollout.codes,
      rollout.logprobs,
      values,
      slopes,
      rollout.title,
      rollout.title_logprobs,
    ),
    model=model,
    optimizer=optimizer,
    options=options,
  )
  return state, metrics | reward_metrics | title_metrics(rollout.title)


def title_metrics(title: Title | None) -> dict[str, jax.Array]:
  """Returns metrics [] of written titles; {} where there are none.

  `title_words`, the mean number of a title's tokens, and `title_cut`, the share
  of titles that had not ended at the maximum: their images are whole and their
  rewards count as any other's.
  """
  if title is None:
    return {}
  return {
    "title_words": title.words.sum(-1).astype(jnp.float32).mean(),
    "title_cut": title.cut.astype(jnp.float32).mean(),
  }


def weigh_rewards(
  raw: Mapping[str, jax.Array],
  weights: Mapping[str, float | jax.Array],
  options: RLOptions,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the advantage of each sample, and metrics.

  Args:
    raw: the rewards [P, G], by name.
    weights: theirs at this step.
    options: how rewards are normalised, and the advantage.

  Returns:
    Advantages [P, G] float32, and metrics [], among them `reward`: the mean of
    the weighted sum of raw rewards.
  """
  kept = rewards.kept_groups(raw)  # [P], those that an external one has scored
  values, contributions = advantages.combine(
    raw,
    weights,
    normalise=options.normalise,
    advantage=options.advantage,
    kept=kept,
  )
  metrics = rewards.statistics(raw, kept) | contributions
  # Of raw rewards: comparable between runs that normalise otherwise.
  total = sum(
    (w * metrics[f"reward/{name}_mean"] for name, w in weights.items()),
    jnp.zeros(()),
  )
  metrics |= {
    f"reward/{name}_weight": weight
    for name, weight in weights.items()
    if isinstance(weight, jax.Array)  # those that change
  }
  return values, {"reward": total} | metrics


def earned(
  samples: jax.Array, targets: Targets, options: RLOptions
) -> jax.Array:
  """Returns what the samples of each prompt earn by CLIP, in the mean: [P].

  The training's `reward`, of held-out users, as far as it is CLIP's: what other
  encoders or a function of the user's reward is not looked at there.

  Args:
    samples: [P, G, E] CLIP embeddings of generated images.
    targets: what they are compared with.
    options: rewards with their weights.
  """
  own = {n: r for n, r in options.rewards.items() if r.encoder == rewards.CLIP}
  raw = rewards.score(samples, targets, own)  # name -> [P, G]
  total = jnp.zeros(len(samples))
  for name, reward in own.items():
    total += reward.weight * raw[name].mean(1)
  return total


def make_options(
  config: Any,
  encoders: Mapping[str, ImageEncoder],
  describe: rewards.Describe | None = None,
  titles: sampling.Titles | None = None,
  reading: Reading | None = None,
) -> RLOptions:
  """Returns the options of a config's step.

  Of its section `rl` all but the memory, which wraps the step.

  Args:
    config: of the run.
    encoders: of its plan.
    describe: what an external reward is told of a window.
    titles: of its plan.
    reading: how written titles are read; None: no reward asks for it.
  """
  options = {k: v for k, v in config.rl.items() if k not in memory.KEYS}
  estimator = options.pop("estimator")
  return RLOptions(
    seed=config.seed,
    microbatches=config.data.microbatches,
    sample=sampling.Sampling(**config.sample),
    rewards=rewards.from_options(
      rewards.sections_of(config.rewards.to_dict()),
      reward_encoders.reads_texts(encoders),
      describe,
      config.rewards.schedule,
    ),
    encoders=encoders,
    titles=titles,
    reading=reading,
    objective=Objective(**config.objective),
    pathwise=pathwise.from_options(estimator, **config.pathwise),
    **options,
  )


def make_step(
  config: Any,
  plan: Plan,
  describe: rewards.Describe | None = None,
  reading: Reading | None = None,
) -> Callable:
  """Returns the step of a config: (state, frozen, batch) -> ...

  Args:
    config: of the run.
    plan: of the run.
    describe: what an external reward is told of a window.
    reading: how written titles are read; None: as shapes alone say.
  """
  step = functools.partial(
    train_step,
    model=plan.model,
    clip=plan.clip,
    optimizer=plan.optimizer,
    to_rollout_layout=plan.to_rollout_layout,
    options=make_options(config, plan.encoders, describe, plan.titles, reading),
  )
  cast = functools.partial(trainable.cast_frozen, plan.model)
  return memory.remembering(step, memory.Memory.of(config.rl), cast)


def read_by_step(config: Any, plan: Plan, frozen: PyTree) -> dict[str, PyTree]:
  """Returns what the step reads of frozen parameters: CLIP if it rewards."""
  looking = make_options(config, plan.encoders).looking
  return {
    name: tree
    for name, tree in frozen.items()
    if name != rewards.CLIP or rewards.CLIP in looking
  }


def reference(config: Any, plan: Plan) -> dict[str, PyTree]:
  """Returns shapes, types and shardings of the KL's reference.

  The reference is the trained parameters as they start, in the type that every
  use casts to. Adapters add nothing at their start: with LoRA the frozen
  parameters alone are the reference, and no weight is held twice.

  Returns:
    {'reference': tree}, or {} without a KL term, or where the state holds a
    reference that is reset.
  """
  if not config.objective.kl_weight or config.rl.reset_reference_every:
    return {}
  start = lora.without(plan.state.params)
  cast = jax.eval_shape(
    functools.partial(trainable.cast_frozen, plan.model), start
  )
  return {
    "reference": jax.tree.map(
      lambda x, used: jax.ShapeDtypeStruct(
        x.shape, used.dtype, sharding=x.sharding
      ),
      start,
      cast,
    )
  }


def copy_reference(
  config: Any, plan: Plan, params: PyTree
) -> dict[str, PyTree]:
  """Returns `reference` with the values of the trainable parameters."""
  kept = reference(config, plan)
  if not kept:
    return {}
  # Copied also where types are equal: the first step's state is donated.
  copy = jax.jit(
    lambda params: trainable.cast_frozen(
      plan.model, jax.tree.map(jnp.copy, params)
    ),
    out_shardings=shardings_of(kept["reference"]),
  )
  return {"reference": copy(lora.without(params))}


def run(config: Any, workdir: str) -> None:
  """Trains with RL from `config.model.checkpoint`; see configs/rl.py."""
  # Groups are as large as rewards need, evaluation as many as the table says.
  parts = build(
    config,
    sample=sampling.Sampling(
      **dict(config.sample, num_samples=config.eval.samples)
    ),
    copy_threshold=config.rewards.copy.threshold,
  )
  if reward_encoders.asks_host(config.rewards.to_dict()):
    image = parts.evaluator.catalogue[0]  # [h, w, 3]
    rewards.probe(
      config.rewards.external.function,
      parts.describe,
      np.stack([image] * config.sample.num_samples),
      seconds=config.rewards.external.seconds,
    )
  kept = copy_reference(config, parts.plan, parts.state.params)
  frozen = read_by_step(config, parts.plan, parts.frozen)
  parts = parts._replace(frozen=frozen | kept)
  options = make_options(config, parts.plan.encoders, parts.describe)
  if any(
    reward.weight and reward.encoder == rewards.CLIP
    for reward in options.rewards.values()
  ):
    # Held-out users' reward is watched, to see whether it is hacked.
    reward = functools.partial(earned, options=options)
    evaluator = dataclasses.replace(parts.evaluator, reward=reward)
    parts = parts._replace(evaluator=evaluator)
  step = make_step(config, parts.plan, parts.describe, parts.reading)
  work = throughput.work(
    throughput.count_weights(parts.plan.model),
    samples=config.sample.num_samples,
    codes=parts.plan.answer_tokens,
    branches=1 if config.sample.guidance == 1 else 2,
    forward=1 + bool(config.objective.kl_weight),  # rollout, reference
    updates=config.rl.inner_epochs,
    **parts.prompt_sizes,
  )
  train(config, workdir, parts, step, headline="reward", work=work)
