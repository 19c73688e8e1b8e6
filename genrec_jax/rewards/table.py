"""Table of rewards: which there are, their options, and the encoders they read.

To add a reward: write a function of (images, targets) and options of its own,
name it in `REWARDS`, and give it a section with a weight in `config.rewards`.
Letters: P prompts, G samples per prompt, E the width of an encoder's space.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genrec_jax import groups
from genrec_jax import knots as knots_lib
from genrec_jax.core.errors import UserError, listed
from genrec_jax.groups import at_least_float32
from genrec_jax.rewards import cosines, external, eyes, written
from genrec_jax.rewards import schedule as schedules
from genrec_jax.rewards.views import (
  CLIP,
  EYES,
  HOST,
  QUALITY,
  WRITTEN,
  View,
)
from genrec_jax.targets import Targets

# A config file may add its own.
REWARDS: dict[str, Callable[..., jax.Array]] = {
  "text": cosines.text,
  "history": cosines.history,
  "future": cosines.future,
  "copy": cosines.copy,
  "diversity": cosines.diversity,
  "quality": cosines.quality,
  "external": external.external,
  "consistency": written.consistency,
  "title": written.title,
  "eyes": eyes.eyes,
}
# Of the title that an answer begins with.
OF_TITLES = ("consistency", "title", "eyes")
# No differentiable functions of images: only the score estimator learns from
# them.
WITHOUT_GRADIENT: set[str] = {"external", *OF_TITLES}
# Scored by each of `config.rewards.encoders` as well. Not `copy`: its threshold
# is one of CLIP's cosines.
_BY_EACH = frozenset({"text", "history", "future", "diversity"})
_ALONE = {
  "quality": QUALITY,
  "external": HOST,
  "consistency": WRITTEN,
  "title": WRITTEN,
  "eyes": EYES,
}
# What a section holds besides the options of its function.
_OF_RUNS = {"quality": ("checkpoint",), "eyes": ("question",)}


class Reward(NamedTuple):
  """A reward with its options, what it counts and whose space it is in."""

  weight: float
  score: Callable[[jax.Array, Targets], jax.Array]  # [P, G, E] -> [P, G]
  encoder: str = CLIP
  knots: knots_lib.Knots = ()  # of the weight; none: it stays


def sections_of(
  rewards: Mapping[str, Any],
) -> dict[str, Mapping[str, Any]]:
  """Returns of a config's `rewards` the sections, without other keys."""
  return {
    name: options
    for name, options in rewards.items()
    if isinstance(options, Mapping)
  }


def problems(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns unknown rewards and options, and options not given, a line each.

  Args:
    sections: see `from_options`.
  """
  found = []
  for name, options in sections.items():
    if name not in REWARDS:
      found.append(f"{name}: expected one of {', '.join(REWARDS)}")
      continue
    own = (*_options(REWARDS[name]), *_OF_RUNS.get(name, ()))
    expected = ["weight", *own]
    if set(options) != set(expected):
      found.append(
        f"{name} has options {', '.join(sorted(options)) or 'none'}: expected"
        f" {', '.join(expected)}"
      )
  return found


def from_options(
  sections: Mapping[str, Mapping[str, Any]],
  encoders: Mapping[str, bool] | None = None,
  describe: external.Describe | None = None,
  schedule: Sequence[tuple[str, int, float]] = (),
) -> dict[str, Reward]:
  """Returns the rewards that a config's section `rewards` describes.

  One of weight 0 is left out: it costs nothing. What several encoders score is
  a reward by each of them, `NAME` by CLIP and `NAME_ENCODER` by another, which
  share the weight; so each is normalised, logged and watched by itself.

  Args:
    sections: name -> {'weight': ..., and the options of REWARDS[name]}.
    encoders: besides CLIP, name -> whether it reads texts.
    describe: what 'external' is told of a window by its number.
    schedule: `config.rewards.schedule`.

  Raises:
    UserError: lists `problems`.
  """
  if wrong := problems(sections):
    raise UserError(listed("invalid rewards:", wrong))
  rewards = {}
  # In one order, whatever that of the config: sums are added in it.
  for name, options in sorted(sections.items()):
    if not options["weight"]:
      continue
    # Bound now, so that a step knows a reward by its name alone.
    own = {key: options[key] for key in _options(REWARDS[name])}
    if name == "external":
      own["describe"] = describe
    score = functools.partial(REWARDS[name], **own)
    by = _encoders_of(name, encoders or {})
    for encoder in by:
      first = encoder == by[0]
      full = name if first else f"{name}_{encoder}"
      rewards[full] = Reward(
        options["weight"] / len(by),
        score,
        encoder,
        schedules.knots_of(schedule, name),
      )
  return rewards


def _encoders_of(name: str, others: Mapping[str, bool]) -> Sequence[str]:
  """Returns the encoders in whose space a reward is scored."""
  if name in _ALONE:
    return (_ALONE[name],)
  if name not in _BY_EACH:
    return (CLIP,)
  return (
    CLIP,
    *(other for other, reads in others.items() if reads or name != "text"),
  )


def _options(function: Callable[..., jax.Array]) -> list[str]:
  """Returns the names of a reward's options, its keyword arguments."""
  return [
    name
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  ]


def weights_at(
  rewards: Mapping[str, Reward], step: jax.Array
) -> dict[str, float | jax.Array]:
  """Returns the rewards' weights at a step: numbers where they stay."""
  return {
    name: reward.weight * knots_lib.factor(reward.knots, step)
    if reward.knots
    else reward.weight
    for name, reward in rewards.items()
  }


def score(
  images: jax.Array, targets: Targets, rewards: Mapping[str, Reward]
) -> dict[str, jax.Array]:
  """Returns the raw rewards of each sample, without their weights.

  Args:
    images: [P, G, E] unit embeddings of the samples, any float type.
    targets: what to compare with.
    rewards: by name, see `from_options`; of one encoder.

  Returns:
    name -> [P, G] float32.
  """
  return {
    name: reward.score(images, targets) for name, reward in rewards.items()
  }


def score_views(
  views: Mapping[str, View], rewards: Mapping[str, Reward]
) -> dict[str, jax.Array]:
  """Returns `score` of rewards by several encoders.

  Args:
    views: what each of the encoders sees, see `views.look`.
    rewards: by name, see `from_options`.
  """
  return {
    name: reward.score(*views[reward.encoder])
    for name, reward in rewards.items()
  }


def kept_groups(raw: Mapping[str, jax.Array]) -> jax.Array | None:
  """Returns [P] bool, False = a sample has no external reward; None: all have.

  NaN of another reward is no such failure: it passes on, and ends the run.
  """
  if "external" not in raw:
    return None
  return jnp.isfinite(raw["external"]).all(1)


def statistics(
  rewards: Mapping[str, jax.Array], kept: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Returns three metrics [] of each of the raw rewards name -> [P, G].

  `reward/NAME_mean`; `reward/NAME_std`, the mean over prompts of the deviation
  within a group, what advantages are made of; `reward/NAME_zero_spread`, the
  share of groups whose samples are all equal and teach nothing.

  Args:
    rewards: raw, by name.
    kept: [P] bool, the groups that these metrics are of; None: all. With it
      there are two more: the shares of samples without an external reward,
      `reward/external_failed`, and of groups, `reward/external_dropped`.
  """
  metrics = {}
  rows = None if kept is None else kept[:, None]  # [P, 1]
  for name, values in rewards.items():
    values = at_least_float32(values)
    equal = groups.zero_spread(values).astype(values.dtype)  # [P]
    metrics[f"reward/{name}_mean"] = values.mean(where=rows)
    metrics[f"reward/{name}_std"] = values.std(1).mean(where=kept)
    metrics[f"reward/{name}_zero_spread"] = equal.mean(where=kept)
  if kept is not None:
    failed = ~jnp.isfinite(rewards["external"])  # [P, G]
    metrics["reward/external_failed"] = failed.astype(jnp.float32).mean()
    metrics["reward/external_dropped"] = 1 - kept.astype(jnp.float32).mean()
  return metrics
