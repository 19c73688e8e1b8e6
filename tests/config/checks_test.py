"""Every key of every config, with values that no run can have."""

import math
import re

import pytest

from genrec_jax import rewards
from genrec_jax.config import checks
from genrec_jax.core.errors import UserError
from genrec_jax.core.tree import flatten
from genrec_jax.objectives import advantages, kl, pathwise, policy
from tests.configs_test import TASKS, VARIANTS, load

# 0 means something for these: none, off, or the first.
ZERO_IS_MEANT = {
  "seed",
  "model.image_size",
  "model.lora_rank",
  "model.read_size",
  "data.held_out",
  "data.seed",
  "data.workers",
  "sample.top_k",
  "optim.b1",
  "optim.b2",
  "optim.weight_decay",
  "optim.warmup_steps",
  "optim.decay_steps",
  "sft.condition_dropout",
  "rewards.copy.threshold",
  "rewards.text.weight",
  "rewards.history.weight",
  "rewards.future.weight",
  "rewards.copy.weight",
  "rewards.diversity.weight",
  "rewards.quality.weight",
  "rewards.external.weight",
  "rewards.consistency.weight",
  "rewards.title.weight",
  "rewards.eyes.weight",
  "sft.image_weight",
  "sft.title_weight",
  "objective.image_weight",
  "objective.title_weight",
  "rl.sampler_weight_cap",
  "objective.kl_weight",
  "objective.entropy_weight",
  "rl.ema_decay",
  "rl.reset_reference_every",
  "train.eval_every",
  "train.checkpoint_every",
  "train.profile",
  "eval.copy_threshold",
  "eval.keep_images",
}
# So does -1: a cosine, and whatever other axes leave.
MINUS_ONE_IS_MEANT = {
  "mesh.data",
  "rewards.copy.threshold",
  "eval.copy_threshold",
}


def get_config(values=(), task="rl", variant=""):
  """Returns a config with some keys set, of whatever type."""
  config = load(task).get_config(variant)
  config.model.checkpoint = config.model.checkpoint or "there"
  config.clip.checkpoint = config.clip.checkpoint or "there"
  if "rewards" in config:  # so that its weight may be any
    config.rewards.quality.checkpoint = "tiny_clip"
    config.rewards.external.function = "math:sqrt"
  with config.ignore_type():
    config.update_from_flattened_dict(dict(values))
  return config


def said(config):
  """Returns what is wrong with a config, '' for nothing."""
  try:
    checks.check(config)
  except UserError as error:
    return str(error)
  return ""


def numbers(config):
  return {
    path: value
    for path, value in flatten(config.to_dict(), sep=".").items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }


@pytest.mark.parametrize("given", [(0.5, 1.5), (1,), (), [0.7]], ids=str)
def test_temperatures_that_can_be(given):
  assert not said(get_config({"eval.temperatures": given}))


@pytest.mark.parametrize(
  "given", [0.5, (0,), (-1.0,), ("1",), (math.nan,), "0.5,1"], ids=str
)
def test_temperatures_that_cannot_be(given):
  text = said(get_config({"eval.temperatures": given}))
  assert text.startswith(f"eval.temperatures is {given!r}: expected numbers")


@pytest.mark.parametrize(
  ("task", "key"), [("rl", "eval.samples"), ("evaluate", "sample.num_samples")]
)
def test_one_sample_has_no_diversity_to_plot(task, key):
  values = {"eval.temperatures": (0.5,), key: 1}
  text = said(get_config(values, task))
  assert text.startswith("eval.temperatures needs two samples a user or more")


@pytest.mark.parametrize(
  "names", [("sasrec", "knn"), ("sasrec", "sasrec"), "sasrec", ([],), None]
)
def test_recommenders_are_named_once_each(names):
  text = said(get_config({"eval.recommenders": names}, "evaluate"))
  assert text == (
    f"eval.recommenders is {names!r}: expected some of most_popular, item_knn,"
    " content_knn, sasrec, each once, as in"
    " --config.eval.recommenders=\"('item_knn','sasrec')\", or () for none"
  )


def test_any_recommenders_and_none_are_allowed():
  for names in ((), ("sasrec", "item_knn")):
    assert not said(get_config({"eval.recommenders": names}, "evaluate"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_number_has_a_range(task, variant):
  config = get_config({}, task, variant)
  assert not said(config)
  for key, value in numbers(config).items():
    assert key in checks.NUMBERS, (
      f"{key}: give it a range in genrec_jax/config/checks.py"
    )
    wrong = [math.nan, math.inf, -math.inf]
    wrong += [-1] * (key not in MINUS_ONE_IS_MEANT)
    wrong += [0] * (key not in ZERO_IS_MEANT)
    for bad in wrong:
      found = said(get_config({key: bad}, task, variant))
      form = rf"{key} is {bad}(\.0)?: expected \w"
      assert re.match(form, found), (key, found)
    right = [value] + [0] * (key in ZERO_IS_MEANT)
    for good in right + [-1] * (key in MINUS_ONE_IS_MEANT):
      assert not said(get_config({key: good}, task, variant))


def test_no_range_is_of_a_key_that_is_gone():
  keys = set().union(*(numbers(get_config({}, task)) for task in TASKS))
  assert checks.NUMBERS.keys() == keys
  assert keys >= ZERO_IS_MEANT | MINUS_ONE_IS_MEANT


@pytest.mark.parametrize(
  ("key", "good", "bad"),
  [
    ("sample.temperature", 0.01, 0.001),
    ("sample.top_p", 1.0, 1.01),
    ("sample.guidance", 0.5, -0.5),
    ("optim.b2", 0.999, 1.0),
    ("rewards.history.recency_decay", 1.0, 1.1),
    ("rewards.copy.threshold", 0.99, 90.0),
    ("objective.clip_low", 1.0, 1.5),
    ("pathwise.share", 0.99, 1.0),
    ("objective.clip_high", 1e9, -0.1),
    ("seed", 2**32 - 1, 2**32),
    ("mesh.data", 4, -2),
  ],
)
def test_the_ends_of_ranges(key, good, bad):
  assert not said(get_config({key: good}))
  assert said(get_config({key: bad})).startswith(f"{key} is {bad}: expected ")


# --- names ----------------------------------------------------------------


def test_names_are_those_of_the_functions_themselves():
  for key, table in (
    ("rl.estimator", pathwise.ESTIMATORS),
    ("rl.advantage", advantages.ADVANTAGES),
    ("rl.normalise", advantages.NORMALISATIONS),
    ("rl.scoring", policy.SCORINGS),
    ("rl.kl_of", policy.KL_OF),
    ("rl.rollout_type", policy.ROLLOUT_TYPES),
    ("objective.ratio", policy.RATIOS),
    ("objective.kl", kl.KLS),
    ("objective.aggregation", policy.AGGREGATIONS),
    ("rewards.history.pool", rewards.HISTORY_POOLS),
    ("rewards.future.pool", rewards.FUTURE_POOLS),
  ):
    assert checks.NAMES[key] is table


@pytest.mark.parametrize("key", checks.NAMES)
def test_an_unknown_name_is_refused_and_every_known_one_is_not(key):
  found = said(get_config({key: "x"}))
  names = ", ".join(checks.NAMES[key])
  assert found == f"{key} is 'x': expected one of {names}"
  for name in checks.NAMES[key]:
    if key != "task":
      # Batch goes with every advantage, and grpo with every normalisation.
      other = {} if key == "rl.normalise" else {"rl.normalise": "batch"}
      other["sample.guidance"] = 2.0  # or there are no branches
      if key == "rl.rollout_type":
        other["rl.sampler_weight_cap"] = 2.0  # which int8 needs
      assert not said(get_config(other | {key: name}))


def test_rewards_have_the_options_of_their_functions():
  config = get_config()
  with config.unlocked():
    config.rewards.novelty = {"weight": 1.0}
    config.rewards.future.decay = 0.5
  found = said(config)
  assert (
    "rewards.novelty: expected one of text, history, future, copy, " in found
  )
  assert (
    "rewards.future has options decay, pool, weight: expected weight, pool"
  ) in found


def test_a_reward_of_a_config_file_has_a_weight_like_others(monkeypatch):
  monkeypatch.setitem(rewards.REWARDS, "novelty", lambda images, targets: 0)
  config = get_config()
  with config.unlocked():
    config.rewards.novelty = {"weight": 0.5}
  assert not said(config)
  config.rewards.novelty.weight = -1.0
  assert said(config) == (
    "rewards.novelty.weight is -1.0: expected at least 0; 0 leaves a reward out"
  )


# --- what does not go together --------------------------------------------


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"rl.advantage": "dr_grpo"},
      "rl.normalise='group' with advantage='dr_grpo': dividing by each group's"
      " deviation makes dr_grpo, rloo and reinforce one algorithm; use"
      " normalise='batch' with 'dr_grpo', or advantage='grpo'",
    ),
    (
      {"sample.num_samples": 1},
      "rl.advantage='grpo' with num_samples=1: a lone sample is its own"
      " baseline and teaches nothing; raise num_samples, or use"
      " advantage='reinforce' with normalise='none'",
    ),
    (
      {
        "sample.num_samples": 1,
        "rl.advantage": "reinforce",
        "rl.normalise": "batch",
      },
      "rl.normalise='batch' with num_samples=1: a lone sample has no deviation"
      " to divide by; raise num_samples, or use normalise='none'",
    ),
    (
      dict.fromkeys(map("rewards.{}.weight".format, rewards.REWARDS), 0.0),
      "the weights of the rewards consistency, copy, diversity, external, eyes,"
      " future, history, quality, text, title are all 0: expected one above 0;"
      " without a reward the policy stays where it starts, whatever the KL",
    ),
    (
      {"sample.top_k": 1},
      "sample.top_k is 1: all samples of a prompt would be one image, without"
      " anything to learn from; expected 0, all codes, or more than 1",
    ),
    (
      {"rl.sampler_weight_cap": 2.0, "rl.scoring": "conditional"},
      "rl.sampler_weight_cap=2.0 with scoring='conditional': expected 0, the"
      " sampler's distribution is the guided one",
    ),
    (
      {
        "rl.estimator": "pathwise",
        "rewards.external.weight": 1.0,
        "rewards.external.function": "math:fsum",
      },
      "rl.estimator='pathwise' with weights of external, which have no"
      " gradient: nothing would learn from them; use 'both' or 'score', or"
      " weights of 0",
    ),
    (
      {"rl.rollout_type": "int8_weights"},
      "rl.rollout_type='int8_weights' with sampler_weight_cap=0: expected a"
      " cap, 2 is usual, as codes come from a policy in eight bits and count by"
      " their probability under the one that is trained",
    ),
    (
      {"rl.kl_of": "branches", "sample.guidance": 1.0},
      "rl.kl_of='branches' with scoring='guided' and guidance=1.0: expected"
      " scoring='guided' and a guidance other than 1, else only one branch is"
      " scored",
    ),
    (
      {"rewards.copy.threshold": 1.0},
      "rewards.copy.threshold is 1: no cosine is above it, so that this reward"
      " penalises nothing; lower it, or give --config.rewards.copy.weight=0",
    ),
    (
      {"rl.reset_reference_every": 5, "objective.kl_weight": 0.0},
      "rl.reset_reference_every is 5 with objective.kl_weight=0: there is no"
      " reference to reset; expected 0, or a KL weight above 0",
    ),
    (
      {"objective.kl_schedule": "x"},
      "objective.kl_schedule is 'x': expected (step, factor) for each knot,"
      " such as ((0, 1.0), (100, 0.1)), or () for none",
    ),
    (
      {"objective.kl_schedule": (0, 1.0)},
      "objective.kl_schedule is (0, 1.0): expected (step, factor) for each"
      " knot, such as ((0, 1.0), (100, 0.1)), or () for none",
    ),
    (
      {"objective.kl_schedule": ((5, 0.0),)},
      "objective.kl_schedule is 0 at all steps: expected a factor above 0;"
      " --config.objective.kl_weight=0 leaves the KL out",
    ),
    (
      {"objective.kl_schedule": ((0, 1.0),), "objective.kl_weight": 0.0},
      "objective.kl_schedule is ((0, 1.0),) with kl_weight=0: expected a KL"
      " weight above 0, which the factor multiplies, or () for none",
    ),
    (
      {"model.trainable": ()},
      "model.trainable is empty: expected patterns of parameters, such as"
      " '^language/'",
    ),
  ],
)
def test_what_does_not_go_together_is_refused(values, message):
  assert said(get_config(values)) == message


def test_a_kl_weight_may_change():
  falling = {"objective.kl_schedule": ((0, 1.0), (40, 0))}
  assert not said(get_config(falling))


def test_what_evaluates_needs_no_group():
  for task in ("sft", "evaluate"):
    values = {"sample.num_samples": 1, "sample.top_k": 1}
    assert not said(get_config(values, task))
  alone = {"rl.advantage": "reinforce", "rl.normalise": "none"}
  assert not said(get_config(alone | {"sample.num_samples": 1}))
  lone = {"rewards.copy.threshold": 1.0, "rewards.copy.weight": 0.0}
  assert not said(get_config(lone))


def test_all_problems_are_listed_at_once():
  found = said(
    get_config(
      {
        "rl.advantage": "ppo",
        "objective.kl": "k1",
        "optim.lr": math.nan,
        "sample.top_p": 2,
      }
    )
  )
  lines = found.splitlines()
  assert lines[0] == "invalid values of the config:"
  assert [line.split()[0] for line in lines[1:]] == [
    "rl.advantage",
    "objective.kl",
    "sample.top_p",
    "optim.lr",
  ]


@pytest.mark.parametrize(
  ("task", "values", "problem"),
  [
    (
      "rl",
      {"rewards.title.weight": 0.5, "rewards.eyes.weight": 1.0},
      r"^rewards.title.weight, rewards.eyes.weight with model.answer='image':"
      r" expected 0",
    ),
    ("sft", {"model.answer": "title"}, "expected one of image, title_image"),
    (
      "sft",
      {
        "model.answer": "title_image",
        "sft.image_weight": 0.0,
        "sft.title_weight": 0.0,
      },
      "sft.image_weight and sft.title_weight are both 0",
    ),
    (
      "evaluate",
      {"model.answer": "title_image", "data.prompts": "some.txt"},
      "data.prompts is 'some.txt' with model.answer='title_image'",
    ),
    (
      "rl",
      {
        "model.answer": "title_image",
        "rewards.eyes.weight": 1.0,
        "rewards.eyes.question": " ",
      },
      "rewards.eyes.question is empty",
    ),
  ],
)
def test_titles_that_cannot_be_are_refused(task, values, problem):
  with pytest.raises(UserError, match=problem):
    checks.check(get_config(values, task))


def test_titles_and_their_rewards_are_allowed_together():
  values = {f"rewards.{name}.weight": 1.0 for name in rewards.OF_TITLES}
  checks.check(get_config(values | {"model.answer": "title_image"}))
