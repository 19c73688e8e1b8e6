import json

import numpy as np
import pytest

from genrec_jax.evals import summary as summary_lib
from genrec_jax.evals import table as table_lib
from tests.evals.table_test import SUMMARY, _cell


def test_rows_are_models_then_shuffled_then_baselines():
  assert [(group, name) for group, name, _ in summary_lib.rows(SUMMARY)] == [
    ("model", "base"),
    ("model", "rl"),
    ("shuffled", "rl"),
    ("baseline", "real_next_item"),
    ("baseline", "random_item"),
    ("baseline", "copy_last"),
  ]


def test_rows_that_are_no_models_have_groups_of_their_own():
  cell = {"text_clip": _cell(0.1)}
  names = ["oracle_best_guess", "copy_last", "sasrec", "rl", "most_popular"]
  summary = {"models": dict.fromkeys(names, cell)}
  assert [(group, name) for group, name, _ in summary_lib.rows(summary)] == [
    ("model", "rl"),
    ("recommender", "most_popular"),
    ("recommender", "sasrec"),
    ("oracle", "oracle_best_guess"),
    ("baseline", "copy_last"),
  ]
  assert summary_lib.model_names(summary) == ["rl"]


def test_columns_are_those_that_exist_in_a_fixed_order():
  assert summary_lib.columns(SUMMARY) == ["text_clip", "copy_rate", "diversity"]


def test_best_heeds_the_direction_and_skips_baselines():
  assert summary_lib.best(SUMMARY) == {"text_clip": "rl", "copy_rate": "base"}
  alone = SUMMARY | {"models": {"rl": SUMMARY["models"]["rl"]}}
  assert summary_lib.best(alone) == {}


def test_ties_and_noise_are_not_marked():
  """Only a paired interval that leaves 0 out makes a model the best."""
  rng = np.random.default_rng(0)
  base = rng.uniform(size=200)
  per_user = {
    "base": {
      "text_clip": base,
      "future_clip_mean": base,
      "copy_rate": 0 * base,
    },
    "rl": {
      "text_clip": base + rng.normal(0, 0.1, 200),  # noise
      # Every user gains, far less than users differ.
      "future_clip_mean": base + rng.uniform(0, 0.01, 200),
      "copy_rate": 0 * base,  # a tie
    },
    "real_next_item": {"text_clip": base},
    "random_item": {"text_clip": base},
  }
  summary = summary_lib.summarise(per_user, seed=0, population="held-out users")
  alone = summary["models"]["rl"]["future_clip_mean"]
  assert alone["low"] < base.mean() < alone["high"]
  assert summary_lib.best(summary) == {"future_clip_mean": "rl"}
  # With a third model that ties with it nobody is best.
  per_user = {"sft": per_user["rl"], **per_user}
  summary = summary_lib.summarise(per_user, seed=0, population="held-out users")
  assert summary_lib.best(summary) == {}
  assert table_lib.table(summary).count("*") == 1  # which the legend explains


def test_differences_of_a_summary():
  scores = {
    name: {"text_clip": np.full(4, value)}
    for name, value in (
      ("base", 0.0),
      ("sft", 0.25),
      ("rl", 0.75),
      ("sft shuffled", 0.125),
      ("rl shuffled", 0.5),
      ("real_next_item", 1.0),
      ("random_item", 0.0625),
    )
  }
  found = summary_lib.summarise(scores, seed=0, population="x")
  assert found["users"] == 4
  assert list(found["models"]) == [
    "base",
    "sft",
    "rl",
    "real_next_item",
    "random_item",
  ]
  assert list(found["shuffled"]) == ["sft", "rl"]
  means = {k: v["text_clip"]["mean"] for k, v in found["differences"].items()}
  assert means == {
    "sft - base": 0.25,
    "rl - sft": 0.5,
    "rl - base": 0.75,
    "sft - sft shuffled": 0.125,
    "rl - rl shuffled": 0.25,
    "base - random_item": -0.0625,
    "sft - random_item": 0.1875,
    "rl - random_item": 0.6875,
    "real_next_item - random_item": 0.9375,
  }
  mirror = summary_lib.difference(found, "base", "rl", "text_clip")
  assert mirror["p"] == pytest.approx(1 / 8, abs=0.01)  # 2 of the 16 signs
  assert mirror == found["differences"]["rl - base"]["text_clip"] | {
    "mean": -0.75,
    "low": -0.75,
    "high": -0.75,
  }
  assert summary_lib.difference(found, "base", "nobody", "text_clip") is None


def test_the_headline_is_the_truth_or_an_independent_judge():
  def headline(*metrics):
    row = {metric: _cell(0.5) for metric in metrics}
    return summary_lib.headline({"models": {"rl": row}})

  assert headline("text_clip", "future_clip_mean") == "future_clip_mean"
  assert headline("future_clip_mean", "preference_match") == "preference_match"
  assert headline("text_clip") == ""


def test_the_best_recommender_is_compared_with_the_last_model():
  scores = {
    name: {"preference_match": np.full(4, value)}
    for name, value in (
      ("sft", 0.5),
      ("rl", 0.75),
      ("most_popular", 0.125),
      ("item_knn", 0.625),
      ("content_knn", 0.25),
      ("real_next_item", 1.0),
      ("random_item", 0.0),
    )
  }
  found = summary_lib.summarise(scores, seed=0, population="x")
  assert summary_lib.best_recommender(found) == "item_knn"
  shown = summary_lib.shown_differences(found)
  assert shown == ["rl - sft", "rl - item_knn"]
  cell = found["differences"]["rl - item_knn"]["preference_match"]
  assert cell["mean"] == 0.125
  assert "rl - most_popular" in found["differences"]
  assert summary_lib.short_name(shown[1]) == "rl - item-kNN"
  assert summary_lib.short_name("rl - rl shuffled") == "rl - shuffled"


def test_a_difference_must_hold_after_the_correction():
  cell = {"mean": 0.5, "low": 0.1, "high": 0.9, "p": 0.01, "p_holm": 0.049}
  assert summary_lib.sign(cell) == 1
  assert summary_lib.sign(cell | {"p_holm": 0.05}) == 0
  assert summary_lib.sign(cell | {"low": 0.0}) == 0
  assert summary_lib.sign(cell | {"low": -0.9, "high": -0.1}) == -1
  assert summary_lib.sign({"mean": 0.5, "low": 0.1, "high": 0.9}) == 1


def test_write_summary_leaves_one_whole_file(tmp_path):
  summary_lib.write(str(tmp_path), SUMMARY)
  assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_write_summary_refuses_nan_and_keeps_the_old_file(tmp_path):
  summary_lib.write(str(tmp_path), SUMMARY)
  broken = {"users": 1, "models": {"rl": {"text_clip": _cell(float("nan"))}}}
  with pytest.raises(ValueError, match="not JSON compliant"):
    summary_lib.write(str(tmp_path), broken)
  assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY
