import numpy as np
import pytest

from genrec_jax.evals import frontier


def _read(curve, *at):
  return frontier.interpolate(np.asarray([curve], float), at)[0].tolist()


def test_interpolation_by_hand():
  # (.1, .8) to (.3, .4) falls by .2 a tenth, then (.5, .3) by .05.
  curve = [(0.1, 0.8), (0.3, 0.4), (0.5, 0.3)]
  found = _read(curve, 0.1, 0.2, 0.3, 0.4, 0.5)
  assert found == pytest.approx([0.8, 0.6, 0.4, 0.35, 0.3])
  assert _read(curve[::-1], 0.2) == pytest.approx([0.6])
  # Beyond its ends it goes on.
  assert _read(curve, 0.05, 0.6) == pytest.approx([0.9, 0.25])
  assert _read([(0.2, 0.7)], 0.1, 0.9) == [0.7, 0.7]
  assert np.isfinite(_read([(0.2, 0.7), (0.2, 0.7)], 0.2)).all()


def _curve(level, shift, places, rng):
  """Makes scores about the line match = 1 - diversity + shift.

  A user's level, [U], is the same in all curves, and so cancels.
  """
  users = len(level)
  return {
    place: {
      "diversity": place + rng.normal(0, 0.1, users),
      "match": 1 - place + shift + level + rng.normal(0, 0.1, users),
    }
    for place in places  # which stand for temperatures
  }


def test_curves_are_compared_where_both_have_a_diversity():
  users = np.zeros(4)
  scores = {
    "sft": {
      1.0: {"diversity": users + 0.5, "match": users + 0.4},
      0.5: {"diversity": users + 0.25, "match": users + 0.9},
    },
    "rl": {
      1.0: {"diversity": users + 0.375, "match": users + 0.8},
      0.5: {"diversity": users + 0.125, "match": users + 0.9},
    },
  }
  found = frontier.frontier(scores, "match", "diversity", seed=0)
  assert [p["temperature"] for p in found["curves"]["sft"]] == [0.5, 1.0]
  # At .25 rl is .85 halfway, sft .9; at .375 they are .8 and .65.
  gaps = found["differences"]["rl - sft"]
  assert [gap["diversity"] for gap in gaps] == [0.25, 0.375]
  assert [gap["mean"] for gap in gaps] == pytest.approx([-0.05, 0.15])
  assert [gap["low"] for gap in gaps] == pytest.approx([-0.05, 0.15])
  apart = {"sft": {1.0: scores["sft"][1.0]}, "rl": {0.5: scores["rl"][0.5]}}
  found = frontier.frontier(apart, "match", "diversity", seed=0)
  assert found["differences"] == {"rl - sft": []}


def test_the_mean_gap_by_hand():
  theirs = np.asarray([[(0.25, 0.9), (0.5, 0.4)]])  # [1, T, 2]
  ours = np.asarray([[(0.125, 0.9), (0.375, 0.8), (0.5, 0.4)]])
  # -.05 at .25, .15 at .375, 0 at .5: means of .05 and .075 in equal parts.
  curves = [
    np.repeat(x, 2, 0) for x in (ours, theirs)
  ]  # one resample, the same
  found = frontier.mean_gap(*curves)
  assert found == pytest.approx(
    {"mean": 0.0625, "low": 0.0625, "high": 0.0625, "least": 0.25, "most": 0.5}
  )
  back = frontier.mean_gap(*curves[::-1])
  assert back["mean"] == pytest.approx(-0.0625)
  # One diversity alone is shared.
  end = np.asarray([[(0.5, 0.3), (0.9, 0.0)]] * 2)
  found = frontier.mean_gap(end, curves[1])
  assert (found["least"], found["most"]) == (0.5, 0.5)
  assert found["mean"] == pytest.approx(-0.1)
  assert frontier.mean_gap(end + np.asarray([0.1, 0.0]), curves[1]) is None


def test_what_curves_are_drawn_of():
  def axes(*metrics):
    return frontier.axes({"models": {"rl": dict.fromkeys(metrics)}})

  told = "preference_match", "future_clip_mean", "diversity"
  assert axes(*told) == [("preference_match", "diversity")]
  assert axes(*told, "future_eye_mean", "diversity_eye") == [
    ("preference_match", "diversity_eye"),
    ("future_eye_mean", "diversity_eye"),
  ]
  assert axes("future_clip_mean", "diversity") == [
    ("future_clip_mean", "diversity")
  ]
  assert axes("future_clip_mean") == axes("diversity") == []


def test_intervals_at_equal_diversity_hold_the_truth():
  """Of a difference of .05; by temperature alone they differ by more."""
  rng = np.random.default_rng(0)
  held, found = [], []
  for _ in range(300):
    level = rng.normal(0, 0.5, 60)
    scores = {
      "sft": _curve(level, 0.0, (0.2, 0.4, 0.6), rng),
      "rl": _curve(level, 0.05, (0.1, 0.3, 0.5), rng),
    }
    gaps = frontier.frontier(
      scores, "match", "diversity", seed=0, resamples=500
    )["differences"]["rl - sft"]
    middle = gaps[len(gaps) // 2]
    held.append(middle["low"] <= 0.05 <= middle["high"])
    found.append(middle["low"] > 0)
  assert np.mean(held) == pytest.approx(0.95, abs=0.03)
  assert np.mean(found) > 0.5  # which their levels, of .5, would drown


def test_users_without_diversity_are_left_out():
  scores = {
    "sft": {
      t: {
        "diversity": np.asarray([0.1 * t, np.nan]),
        "match": np.asarray([0.5, 9.0]),
      }
      for t in (1.0, 2.0)
    }
  }
  found = frontier.frontier(scores, "match", "diversity", seed=0)
  for point in found["curves"]["sft"]:
    assert point["alignment"]["mean"] == 0.5
  assert found["differences"] == {}
