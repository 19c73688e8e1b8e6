import numpy as np
import pytest

from genrec_jax.evals import summary as summary_lib
from genrec_jax.evals.verdicts import verdicts

SIZE = 100


def _scores(**means):
  """Makes rows of text and history scores that differ by their means alone."""
  noise = np.random.default_rng(0).normal(0, 0.01, (len(means), SIZE))
  return {
    row.replace("_shuffled", " shuffled"): {
      "history_clip_mean": mean + noise[i],
      "text_clip": mean + noise[i],
    }
    for i, (row, mean) in enumerate(means.items())
  }


def _verdicts(**means):
  summary = summary_lib.summarise(_scores(**means), seed=0, population="users")
  return verdicts(summary)


BLIND = "the reward's CLIP cannot tell real from random"
GOOD = {
  "sft": 0.5,
  "sft_shuffled": 0.1,
  "real_next_item": 0.9,
  "random_item": 0.1,
}


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({}, None),
    ({"real_next_item": 0.1}, f"{BLIND}: real next item is not above"),
    ({"real_next_item": -0.9}, f"{BLIND}: real next item is not above"),
    ({"sft": 0.0, "sft_shuffled": -0.5}, "sft is below random item in history"),
    ({"sft": 0.1, "sft_shuffled": -0.5}, "sft cannot be told from random item"),
    ({"sft_shuffled": 0.5}, "sft is no better with the user's own history"),
    ({"sft_shuffled": 0.8}, "sft is worse with the user's own history"),
  ],
)
def test_what_intervals_do_not_show_is_said(change, expected):
  found = _verdicts(**GOOD | change)
  if expected is None:
    assert found == []
    return
  (line,) = found
  assert line.startswith(expected)
  assert line.endswith("history mean, text")


def test_who_chooses_by_an_encoder_is_flattered_by_it():
  def last(*metrics):
    rows = {"content_knn": {m: np.ones(3) for m in metrics}}
    return verdicts(summary_lib.summarise(rows, seed=0, population="users"))

  words = (
    "content-kNN shows what is most alike to {}, whose own columns flatter"
  )
  (line,) = last("text_clip", "mrr_eye", "mrr_ear")
  assert line.startswith(words.format("eye"))
  # What rates images does not choose among them.
  (line,) = last("text_clip", "quality_pick")
  assert line.startswith(words.format("the reward's CLIP"))
