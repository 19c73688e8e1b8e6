"""The table of rewards: options, weights, encoders, and statistics."""

import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.core.errors import UserError
from tests.rewards.cosines_test import (
  IMAGES,
  OPTIONS,
  TARGETS,
  assert_rewards,
  at,
)


def test_options_are_those_of_the_function():
  with pytest.raises(UserError) as error:
    rewards.from_options(
      OPTIONS | {"novelty": {}, "copy": {"weight": 1.0, "pool": "max"}}
    )
  for line in (
    "novelty: expected one of text, history, future, copy",
    "copy has options pool, weight: expected weight, threshold",
  ):
    assert line in str(error.value)


def test_rewards_are_added_in_one_order_whatever_the_config_s():
  """Else the same weights would round otherwise in another order."""
  for options in (OPTIONS, dict(reversed(OPTIONS.items()))):
    assert list(rewards.from_options(options)) == sorted(OPTIONS)


def test_a_reward_that_is_added_is_scored(monkeypatch):
  """One function, one entry of the table, one section of the config."""

  def novelty(images, targets, *, scale):
    del targets
    return scale * images[..., 0]

  monkeypatch.setitem(rewards.REWARDS, "novelty", novelty)
  found = rewards.from_options(
    {"novelty": {"weight": 0.5, "scale": 2.0}, "text": {"weight": 1.0}}
  )
  assert {k: one.weight for k, one in found.items()} == {
    "novelty": 0.5,
    "text": 1.0,
  }
  raw = rewards.score(IMAGES, TARGETS, found)
  assert_rewards(raw["novelty"], [2.0, 1.0])
  assert_rewards(raw["text"], [0.5, 1.0])


def test_statistics_by_hand():
  # Deviations within the groups: 1, 0 and 0.1, 0.2.
  metrics = rewards.statistics(
    {
      "text": jnp.array([[1.0, 3.0], [5.0, 5.0]]),
      "copy": jnp.array([[0.0, -0.2], [0.0, -0.4]]),
    }
  )
  expected = {
    "reward/text_mean": 14 / 4,
    "reward/text_std": (1 + 0) / 2,
    "reward/text_zero_spread": 0.5,
    "reward/copy_mean": -0.6 / 4,
    "reward/copy_std": (0.1 + 0.2) / 2,
    "reward/copy_zero_spread": 0.0,
  }
  assert set(metrics) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    assert metrics[name].shape == ()


def test_a_reward_of_weight_0_is_left_out():
  off = {"quality": {"weight": 0.0, "checkpoint": ""}}
  off |= {"copy": {"weight": 0, "threshold": 0.9}}
  assert set(rewards.from_options(OPTIONS | off)) == {
    "text",
    "history",
    "future",
  }


def test_encoders_share_a_weight_and_are_rewards_of_their_own():
  options = OPTIONS | {"diversity": {"weight": 0.6}}
  options |= {"quality": {"weight": 0.3, "checkpoint": "DIR"}}
  found = rewards.from_options(options, {"siglip": True, "dino": False})
  assert {k: (r.encoder, r.weight) for k, r in found.items()} == {
    "copy": ("clip", 1.0),  # its threshold is one of CLIP's
    "diversity": ("clip", pytest.approx(0.2)),
    "diversity_siglip": ("siglip", pytest.approx(0.2)),
    "diversity_dino": ("dino", pytest.approx(0.2)),
    "future": ("clip", pytest.approx(1 / 3)),
    "future_siglip": ("siglip", pytest.approx(1 / 3)),
    "future_dino": ("dino", pytest.approx(1 / 3)),
    "history": ("clip", pytest.approx(1 / 3)),
    "history_siglip": ("siglip", pytest.approx(1 / 3)),
    "history_dino": ("dino", pytest.approx(1 / 3)),
    "quality": ("quality", 0.3),
    "text": ("clip", 0.5),  # dino reads no texts
    "text_siglip": ("siglip", 0.5),
  }


def test_each_reward_is_scored_in_its_own_encoder_s_space():
  """Another encoder sees the samples at 90 and 60 degrees."""
  found = rewards.from_options({"text": {"weight": 1.0}}, {"other": True})
  views = {
    "clip": rewards.View(IMAGES, TARGETS),
    "other": rewards.View(at(90, 60)[None], TARGETS),
  }
  raw = rewards.score_views(views, found)
  assert_rewards(raw["text"], [0.5, 1.0])
  assert_rewards(raw["text_other"], [np.cos(np.pi / 6), 1.0])


def test_sections_are_what_holds_options():
  found = rewards.sections_of({"encoders": ("a",), "text": {"weight": 1}})
  assert found == {"text": {"weight": 1}}
