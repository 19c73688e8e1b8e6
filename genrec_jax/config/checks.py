"""Checks of a config: allowed values of keys whose errors would surface late.

Names are those of the tables that the functions themselves look them up in, so
a new one is allowed as soon as it is there.
"""

from collections.abc import Callable, Collection, Mapping
import math
from typing import Any, NamedTuple

from genrec_jax import rewards, rows
from genrec_jax.config import judges, rewarding
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten
from genrec_jax.data.histories import SHORT_HISTORIES
from genrec_jax.nn.layers import REMAT_POLICIES
from genrec_jax.objectives import advantages, kl, pathwise, policy
from genrec_jax.sampling import ANSWERS

# Modules whose `run(config, workdir)` is a task, imported when it is chosen.
TASKS = {
  "sft": "genrec_jax.train.sft",
  "rl": "genrec_jax.train.rl",
  "evaluate": "genrec_jax.evals.task",
}
_DTYPES = ("float32", "bfloat16")
NAMES: Mapping[str, Collection[str]] = {
  "task": TASKS,
  "model.dtype": _DTYPES,
  "model.answer": ANSWERS,
  "model.remat": tuple(REMAT_POLICIES),
  "clip.dtype": _DTYPES,
  "data.short_histories": SHORT_HISTORIES,
  "rewards.history.pool": rewards.HISTORY_POOLS,
  "rewards.future.pool": rewards.FUTURE_POOLS,
  "rl.estimator": pathwise.ESTIMATORS,
  "rl.advantage": advantages.ADVANTAGES,
  "rl.normalise": advantages.NORMALISATIONS,
  "rl.scoring": policy.SCORINGS,
  "rl.kl_of": policy.KL_OF,
  "rl.rollout_type": policy.ROLLOUT_TYPES,
  "pathwise.relaxation": pathwise.RELAXATIONS,
  "pathwise.normalise": advantages.NORMALISATIONS,
  "objective.ratio": policy.RATIOS,
  "objective.kl": kl.KLS,
  "objective.aggregation": policy.AGGREGATIONS,
}


class Numbers(NamedTuple):
  """Numbers that a key may have, besides being finite."""

  expected: str
  allow: Callable[[float], bool]


def _at_least(least: float) -> Numbers:
  return Numbers(f"at least {least}", lambda value: value >= least)


def _above(bound: float, hint: str = "") -> Numbers:
  return Numbers(f"more than {bound}{hint}", lambda value: value > bound)


_SEED = Numbers("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
_COSINE = Numbers("a cosine, from -1 to 1", lambda value: -1 <= value <= 1)
_DECAY = Numbers("at least 0 and less than 1", lambda value: 0 <= value < 1)
# Smaller ones overflow float32, and sample the likeliest code anyway.
_TEMPERATURE = Numbers(
  "at least 0.01; sample.top_k=1 samples the likeliest code",
  lambda value: value >= 0.01,
)
_SHARE = Numbers("more than 0 and at most 1", lambda value: 0 < value <= 1)
_WEIGHT = Numbers("at least 0; 0 leaves a reward out", lambda value: value >= 0)
# Every key of the configs that is a number; a test holds this to them.
NUMBERS: Mapping[str, Numbers] = {
  "seed": _SEED,
  "model.image_size": _at_least(0),
  "model.read_size": _at_least(0),
  "model.lora_rank": _at_least(0),
  "model.title_tokens": _at_least(2),  # a word and the end
  "data.num_users": _at_least(1),
  "data.held_out": _at_least(0),
  "data.num_events": _at_least(1),
  "data.seed": _SEED,
  "data.history_length": _at_least(1),
  "data.future_horizon": _at_least(1),
  "data.batch_size": _at_least(1),
  "data.microbatches": _at_least(1),
  "data.workers": _at_least(0),
  "sample.num_samples": _at_least(1),
  "sample.guidance": _above(0, "; 1 leaves the prompt's own distribution"),
  "sample.temperature": _TEMPERATURE,
  "sample.top_k": _at_least(0),
  "sample.top_p": Numbers(
    _SHARE.expected + ", which cuts nothing", _SHARE.allow
  ),
  "mesh.data": Numbers(
    "at least 1, or -1 for all devices that the others leave",
    lambda value: value >= 1 or value == -1,
  ),
  "mesh.model": _at_least(1),
  "mesh.slices": _at_least(1),
  "optim.lr": _above(0),
  "optim.b1": _DECAY,
  "optim.b2": _DECAY,
  "optim.weight_decay": _at_least(0),
  "optim.warmup_steps": _at_least(0),
  "optim.decay_steps": _at_least(0),
  "optim.grad_norm": _above(0, "; a large number clips nothing"),
  "sft.condition_dropout": Numbers(
    _DECAY.expected + ", which would hide every history", _DECAY.allow
  ),
  "sft.image_weight": _at_least(0),
  "sft.title_weight": _at_least(0),
  "rewards.history.recency_decay": _SHARE,
  "rewards.copy.threshold": _COSINE,
  "rewards.external.seconds": _above(0),
  "rewards.external.threads": _at_least(1),
  **{f"rewards.{name}.weight": _WEIGHT for name in rewards.REWARDS},
  "rl.inner_epochs": _at_least(1),
  "rl.sampler_weight_cap": _at_least(0),
  "rl.ema_decay": _DECAY,
  "rl.reset_reference_every": _at_least(0),
  "pathwise.share": Numbers(
    "more than 0 and less than 1; rl.estimator says which alone",
    lambda value: 0 < value < 1,
  ),
  "pathwise.temperature": _above(0),
  "objective.clip_low": _SHARE,
  "objective.clip_high": _above(0, "; a large number clips nothing"),
  "objective.kl_weight": _at_least(0),
  "objective.entropy_weight": _at_least(0),
  "objective.entropy_target": _above(0),
  "objective.image_weight": _at_least(0),
  "objective.title_weight": _at_least(0),
  "train.steps": _at_least(1),
  "train.log_every": _at_least(1),
  "train.eval_every": _at_least(0),
  "train.checkpoint_every": _at_least(0),
  "train.keep": _at_least(1),
  "train.profile": _at_least(0),
  "eval.users": _at_least(1),
  "eval.users_during": _at_least(1),
  "eval.keep_images": _at_least(0),
  "eval.samples": _at_least(1),
  "eval.batch_size": _at_least(1),
  "eval.copy_threshold": _COSINE,
}


def check(config: Any) -> None:
  """Refuses invalid values, and runs that would train nothing.

  Args:
    config: a ConfigDict of any task; keys that it lacks are not asked for.

  Raises:
    UserError: lists them.
  """
  values = flatten(config.to_dict(), sep=".")
  # All of them at once: each start of a run costs its user a minute.
  problems = [
    f"{key} is not set: give an HF-format folder with --config.{key}=DIR"
    for key in ("model.checkpoint", "clip.checkpoint")
    if not values[key]
  ]
  problems += [
    f"{key} is {values[key]!r}: expected one of {', '.join(names)}"
    for key, names in NAMES.items()
    if key in values and values[key] not in names
  ]
  # Of rewards that a config file has added, too.
  added = {f"rewards.{name}.weight": _WEIGHT for name in rewards.REWARDS}
  problems += [
    f"{key} is {values[key]}: expected {numbers.expected}"
    for key, numbers in {**NUMBERS, **added}.items()
    if key in values
    and not (math.isfinite(values[key]) and numbers.allow(values[key]))
  ]
  problems += _temperature_problems(values)
  problems += _recommender_problems(values)
  if "objective.kl_schedule" in values:
    problems += [
      f"objective.{problem}"
      for problem in policy.schedule_problems(
        values["objective.kl_schedule"], values["objective.kl_weight"]
      )
    ]
  rewards_section = config.to_dict().get("rewards", {})
  problems += rewarding.problems(rewards_section, values["clip.checkpoint"])
  if "eval.judges" in values:
    problems += judges.problems(
      values["eval.judges"],
      values["clip.checkpoint"],
      rewarding.folders(rewards_section),
    )
  if quality := values.get("eval.quality"):
    problems += judges.absent("eval.quality", quality)
  # What follows reads several values, each of which must make sense by itself.
  problems = problems or _contradictions(values)
  if problems[1:]:
    raise UserError(listed("invalid values of the config:", problems))
  if problems:
    raise UserError(problems[0])


def _temperature_problems(values: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with `eval.temperatures`, if anything is."""
  given = values.get("eval.temperatures", ())
  if not isinstance(given, tuple | list) or not all(
    isinstance(t, int | float) and math.isfinite(t) and _TEMPERATURE.allow(t)
    for t in given
  ):
    return [
      f"eval.temperatures is {given!r}: expected numbers of at least 0.01, as"
      " in --config.eval.temperatures='(0.5,1.5)'"
    ]
  # A task without a number of its own evaluates as many as it samples.
  if given and values.get("eval.samples", values["sample.num_samples"]) < 2:
    return [
      "eval.temperatures needs two samples a user or more: one has no diversity"
      " to plot; raise the samples, or leave the temperatures out"
    ]
  return []


def _recommender_problems(values: Mapping[str, Any]) -> list[str]:
  """Returns what is wrong with `eval.recommenders`, if anything is."""
  given = values.get("eval.recommenders", ())
  if (
    isinstance(given, tuple | list)
    and all(isinstance(name, str) for name in given)
    and set(given) <= rows.RECOMMENDERS.keys()
    and len(set(given)) == len(given)
  ):
    return []
  return [
    f"eval.recommenders is {given!r}: expected some of"
    f" {', '.join(rows.RECOMMENDERS)}, each once, as in"
    " --config.eval.recommenders=\"('item_knn','sasrec')\", or () for none"
  ]


def _contradictions(values: Mapping[str, Any]) -> list[str]:
  """Returns values that are allowed by themselves but not together.

  Most of them would leave nothing to be learned.
  """
  problems = []
  # A task that trains nothing has no such key.
  if "model.trainable" in values and not values["model.trainable"]:
    problems.append(
      "model.trainable is empty: expected patterns of parameters, such as"
      " '^language/'"
    )
  if values["data.prompts"] and values["data.path"]:
    problems.append(
      f"data.prompts is {values['data.prompts']!r} and data.path"
      f" {values['data.path']!r}: expected one of them"
    )
  if values["data.prompts"] and values["task"] == "sft":
    problems.append(
      f"data.prompts is {values['data.prompts']!r} with task 'sft': expected"
      " task 'rl' or 'evaluate'"
    )
  if values.get("model.answer") == "title_image":
    problems += _title_contradictions(values)
  if values["task"] == "rl":
    problems += _rl_contradictions(values)
  return problems


def _title_contradictions(values: Mapping[str, Any]) -> list[str]:
  """Returns what cannot be with titles before images."""
  problems = []
  if values["data.prompts"]:
    problems.append(
      f"data.prompts is {values['data.prompts']!r} with"
      " model.answer='title_image': expected model.answer='image', as such a"
      " prompt is the title itself"
    )
  for section in ("sft", "objective"):
    image = values.get(f"{section}.image_weight")  # None in another task
    if image == 0 and values[f"{section}.title_weight"] == 0:
      problems.append(
        f"{section}.image_weight and {section}.title_weight are both 0:"
        " expected one above 0, as nothing would be learned"
      )
  return problems


def _rl_contradictions(values: Mapping[str, Any]) -> list[str]:
  problems = [
    f"rl.{problem}"
    for problem in advantages.contradictions(
      advantage=values["rl.advantage"],
      normalise=values["rl.normalise"],
      num_samples=values["sample.num_samples"],
    )
  ]
  if values["rl.reset_reference_every"] and not values["objective.kl_weight"]:
    problems.append(
      f"rl.reset_reference_every is {values['rl.reset_reference_every']} with"
      " objective.kl_weight=0: there is no reference to reset; expected 0, or a"
      " KL weight above 0"
    )
  if values["sample.top_k"] == 1:  # fine where nothing is trained
    problems.append(
      "sample.top_k is 1: all samples of a prompt would be one image, without"
      " anything to learn from; expected 0, all codes, or more than 1"
    )
  problems += [
    f"rl.{problem}"
    for problem in policy.contradictions(
      scoring=values["rl.scoring"],
      kl_of=values["rl.kl_of"],
      sampler_weight_cap=values["rl.sampler_weight_cap"],
      guidance=values["sample.guidance"],
      rollout_type=values["rl.rollout_type"],
    )
  ]
  problems += [
    f"rl.{problem}"
    for problem in pathwise.contradictions(
      values["rl.estimator"], _reward_weights(values), rewards.WITHOUT_GRADIENT
    )
  ]
  problems += rewarding.of_titles(values)
  if values["data.prompts"]:
    problems += rewarding.of_users(values)
  return problems + _reward_contradictions(values)


def _reward_weights(values: Mapping[str, Any]) -> dict[str, float]:
  return {
    key.split(".")[1]: value  # of rewards.NAME.weight
    for key, value in values.items()
    if key.startswith("rewards.") and key.endswith(".weight")
  }


def _reward_contradictions(values: Mapping[str, Any]) -> list[str]:
  weights = _reward_weights(values)
  if not any(weights.values()):
    return [
      f"the weights of the rewards {', '.join(weights)} are all 0: expected one"
      " above 0; without a reward the policy stays where it starts, whatever"
      " the KL"
    ]
  if weights.get("copy") and values["rewards.copy.threshold"] == 1:
    return [
      "rewards.copy.threshold is 1: no cosine is above it, so that this reward"
      " penalises nothing; lower it, or give --config.rewards.copy.weight=0"
    ]
  return []
