"""Known raters in, known results out: the honesty of the whole analysis."""

from collections import Counter

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study import (
  analysis,
  bradley_terry,
  exclusions,
  resample,
  simulation,
)
from genrec_jax.study.simulation import Behaviour
from genrec_jax.study.texts import QUESTIONS
from tests.study.made import make_study

RUNS = 100


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
  """Three rows of 24 users: 72 pairs in four blocks."""
  return make_study(
    tmp_path_factory.mktemp("larger"),
    users=24,
    rows=("rl", "sft", "content_knn"),
  )


def kept_pairs(study, truth, run, raters=32, **options):
  made = simulation.votes(study, truth, raters=raters, seed=run, **options)
  kept = simulation.attentive(study, made)
  resampled = resample.bootstrap(
    len(kept.raters), len(kept.users), resamples=300, seed=run
  )
  return kept.take(kept.kind == "pair"), resampled


def test_known_scores_are_within_their_intervals(larger):
  """All rows and questions of a run at once, in 95 of 100 runs."""
  truth = {"rl": 0.5, "sft": 0.1, "content_knn": -0.6}
  runs = []
  for run in range(RUNS):
    pairs, resampled = kept_pairs(larger, truth, run)
    tables = [
      analysis.scores(pairs, q, resampled)["rows"]
      for q in range(len(QUESTIONS))
    ]
    runs.append(
      all(
        rows[row]["low"] <= score <= rows[row]["high"]
        for rows in tables
        for row, score in truth.items()
      )
    )
  assert np.sum(runs) >= 95


def test_known_win_rates_are_within_theirs_and_no_difference_is_none(larger):
  truth = dict.fromkeys(("rl", "sft", "content_knn"), 0.0)
  found = []
  for run in range(RUNS):
    pairs, resampled = kept_pairs(larger, truth, run)
    found += [
      cell["low"] <= 0.5 <= cell["high"]
      for cell in analysis.win_rates(pairs, 0, resampled)
    ]
  # Of 300 intervals, which are not all independent: 95 % +- 2.
  assert 0.93 <= np.mean(found) <= 0.98


def test_votes_are_as_often_as_the_model_says(larger):
  truth = {"rl": 1.0, "sft": 0.0, "content_knn": 0.0}
  behaviour = Behaviour(by_user=0, by_rater=0)
  pairs, _ = kept_pairs(larger, truth, 0, raters=800, behaviour=behaviour)
  for rows, scores in (((0, 1), (1, 0)), ((1, 2), (0, 0))):
    own = pairs.take((pairs.first == rows[0]) & (pairs.second == rows[1]))
    expected = bradley_terry.probabilities(*scores, behaviour.tie)
    for share, outcome in zip(expected, (1, -1, 0), strict=True):
      # 4,800 votes: a standard deviation is at most .007.
      assert np.mean(own.outcome == outcome) == pytest.approx(share, abs=0.03)


def test_likeness_makes_raters_agree_and_widens_intervals(larger):
  truth = dict.fromkeys(("rl", "sft", "content_knn"), 0.0)
  widths, alphas = [], []
  for share in (0.0, 0.8):
    behaviour = Behaviour(by_user=share, by_rater=0)
    made = simulation.votes(
      larger, truth, raters=32, seed=1, behaviour=behaviour
    )
    found, _ = analysis.run(larger, made)
    alphas.append(found["alpha"]["taste"])
    widths.append(
      np.mean([x["high"] - x["low"] for x in found["win_rates"]["taste"]])
    )
  # Two votes of a pair follow one number in .64 of cases, and then agree.
  assert alphas[0] == pytest.approx(0, abs=0.1)
  assert alphas[1] == pytest.approx(0.64, abs=0.1)
  assert widths[1] > 1.2 * widths[0]


def test_the_careless_are_left_out_with_their_reason(larger):
  truth = simulation.evenly(("rl", "sft", "content_knn"))
  reasons, attentive_out, through = Counter(), 0, 0
  for run in range(20):
    made = simulation.votes(
      larger, truth, raters=10, seed=run, always_left=1, random_clickers=3
    )
    kept, _ = analysis.sort_votes(larger, made)
    answers = analysis.open_answers(larger, kept)
    excluded = exclusions.reasons(answers, exclusions.Rules())
    # The attentive are numbered first, then those who press left.
    left = excluded["simulated0010"]
    assert any(why.startswith("one side: 100% of answers left") for why in left)
    assert any(why.startswith("attention") for why in left)
    for rater in ("simulated0011", "simulated0012", "simulated0013"):
      through += rater not in excluded
      reasons.update(why.split(":")[0] for why in excluded.get(rater, ()))
    attentive_out += len(
      set(excluded) - {f"simulated{i:04d}" for i in range(10, 14)}
    )
  # By the rule's own numbers 1.6 % of 60 get through.
  assert through <= 2
  assert reasons.keys() == {"attention"}
  assert attentive_out <= 4  # 0.8 % of 200


def test_power_is_what_a_formula_says(larger):
  """With votes that are not alike, and far apart or not at all."""
  truth = {"rl": 0.7, "sft": 0.0, "content_knn": 0.0}
  found = simulation.trials(larger, truth, raters=32, runs=40, seed=0)
  assert found.power["rl", "sft"] > 0.8
  assert found.power["sft", "content_knn"] < 0.2
  # Of 120 intervals, at rates of .65 and of .5: 95 % and two deviations.
  assert 0.91 <= found.covered <= 1


def test_the_same_seed_gives_the_same_votes(larger):
  truth = simulation.evenly(larger.record["rows"])
  one, other, another = (
    simulation.votes(larger, truth, raters=4, seed=seed) for seed in (1, 1, 2)
  )
  assert one == other != another


def test_scores_evenly_apart():
  assert simulation.evenly("abc", 0.4) == {"a": 0.4, "b": 0.0, "c": -0.4}


def test_a_truth_has_a_score_of_each_row(larger):
  rows = ["rl:1", "sft:0", "content_knn:-.5"]
  found = simulation.scores(larger, rows)
  assert found == {"rl": 1, "sft": 0, "content_knn": -0.5}
  for wrong in (rows[:2], [*rows[:2], "x:1"], [*rows[:2], "content_knn:nan"]):
    with pytest.raises(UserError, match="score of each row"):
      simulation.scores(larger, wrong)
