"""Runs at equal diversity, made from a few numbers."""

import numpy as np
import pytest

from genrec_jax.evals import differences, frontier
from genrec_jax.evals.compare import comparison, equal_diversity, words
from genrec_jax.evals.compare.groups import Group
from genrec_jax.evals.compare.runs import Run

AXES = "preference_match", "diversity"
LEVEL = np.linspace(0.0, 0.4, 40)  # of each user


def _run(shift, *places, seed=0, noise=0.0, rows=("rl",)):
  """Makes a run whose match is 1 - diversity + shift, and a user's level."""
  rng = np.random.default_rng(seed)
  scores = {}
  for row in rows:
    for i, place in enumerate(places):
      own = rng.normal(0, noise, (2, len(LEVEL)))
      name = frontier.row_name(row, 1 - i / 10) if i else row
      scores[name] = {
        "preference_match": 1 - place + shift + LEVEL + own[0] + (row != "rl"),
        "diversity": place + own[1],
      }
  users = [str(i) for i in range(len(LEVEL))]
  return Run("path", {}, {}, seed, "rl", users, scores, {})


def _group(name, *runs):
  return Group(name, {}, runs)


def test_a_shift_is_found_whatever_the_temperatures():
  ours = _group("b", _run(0.05, 0.7, 0.4, 0.2, noise=0.02))
  theirs = _group("a", _run(0.0, 0.5, 0.3, noise=0.02, seed=1))
  found = equal_diversity.between(ours, theirs, axes=AXES, seed=0)
  assert found["mean"] == pytest.approx(0.05, abs=0.01)
  assert found["low"] < found["mean"] < found["high"]
  # Users' levels, which differ by .4, cancel.
  assert found["high"] - found["low"] < 0.03
  assert found["least"] == pytest.approx(0.3, abs=0.02)
  assert found["most"] == pytest.approx(0.5, abs=0.02)


def test_seeds_that_differ_widen_it():
  theirs = _group("a", _run(0.0, 0.5, 0.3), _run(0.1, 0.5, 0.3, seed=1))
  ours = _group("b", _run(0.2, 0.5, 0.3), _run(0.3, 0.5, 0.3, seed=1))
  found = equal_diversity.between(ours, theirs, axes=AXES, seed=0)
  assert found["mean"] == pytest.approx(0.2)
  assert found["high"] - found["low"] > 0.1
  means = differences.between_seeds(
    *([run.own for run in group.runs] for group in (ours, theirs)), seed=0
  )["preference_match"]
  # All at one diversity: what is said of the means is said of the curves.
  for end in ("mean", "low", "high"):
    assert found[end] == pytest.approx(means[end])


def test_other_rows_are_no_part_of_a_curve():
  both = _run(0.0, 0.5, 0.3, rows=("sft", "rl", "rl shuffled"))
  plain = _run(0.0, 0.5, 0.3)
  one = equal_diversity.between(
    _group("b", both), _group("a", plain), axes=AXES, seed=0
  )
  assert one["mean"] == pytest.approx(0)


def test_one_temperature_is_no_curve():
  alone, curve = _group("a", _run(0.0, 0.4)), _group("b", _run(0.1, 0.5, 0.3))
  for pair in ((alone, curve), (curve, alone)):
    assert equal_diversity.between(*pair, axes=AXES, seed=0) is None
  far = _group("c", _run(0.0, 0.9, 0.8))
  assert equal_diversity.between(far, curve, axes=AXES, seed=0) is None
  for other in (alone, far):
    assert comparison._at_equal_diversity([curve, other], "", 0) == {}


def test_it_is_said_in_words():
  groups = [
    _group("grpo", _run(0.0, 0.5, 0.3)),
    _group("rloo", _run(0.1, 0.5, 0.4)),
  ]
  found = comparison._at_equal_diversity(groups, "", 0)
  (line,) = words.equal_diversity(
    {"groups": [{"name": "grpo"}], "at_equal_diversity": found}
  )
  assert line == (
    "rloo: preference match +0.100 (+0.100 to +0.100), in the mean of"
    " diversities from 0.40 to 0.50"
  )
  assert comparison._at_equal_diversity(groups, "preference_match", 0) == {}
