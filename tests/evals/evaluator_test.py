import dataclasses
import json
import threading

import jax
import numpy as np

from genrec_jax.evals import metrics as metrics_lib
from genrec_jax.evals.held_out import join, prepare
from genrec_jax.evals.scoring import Scorer
from genrec_jax.runtime import progress
from tests import rounding

MIDRUN = {
  "history_clip_mean",
  "history_clip_max",
  "future_clip_mean",
  "text_clip",
  "preference_match",
  "copy_rate",
  "diversity",
  "future_eye_mean",
  "diversity_eye",
  "kid_eye",
}


def _evaluate(evaluator, fidelity, batches=None):
  """Returns the scores of a model."""
  batches = evaluator.test if batches is None else batches
  shown, _ = evaluator.sample(fidelity, batches)
  return Scorer(join(batches), evaluator.copy_thresholds, 0).score(shown)


def test_scores_are_per_user_and_better_for_a_better_model(evaluator):
  bad, good = _evaluate(evaluator, 0.0), _evaluate(evaluator, 1.0)
  assert all(values.shape == (10,) for values in good.values())
  for name in ("preference_match", "future_clip_mean", "history_eye_mean"):
    assert good[name].mean() > bad[name].mean(), name


def test_samples_of_the_first_users_are_kept(evaluator):
  shown, samples = evaluator.sample(1.0, evaluator.test, keep=range(6))
  assert samples.shape == (6, 4, 32, 32, 3)
  _, others = evaluator.sample(1.0, evaluator.test, keep=[9, 5, 0, 9])
  np.testing.assert_array_equal(others[1:3], samples[[5, 0]])
  np.testing.assert_array_equal(others[0], others[3])  # of the last batch
  assert shown.attributes.shape == (10, 4, 5)
  assert {x.shape[:2] for x in shown.embeds.values()} == {(10, 4)}
  found = evaluator.panel.embed_images(samples)
  np.testing.assert_allclose(shown.embeds["eye"][:6], found["eye"], rtol=1e-5)


def test_scoring_says_so_where_it_takes_long(evaluator, monkeypatch):
  """A score that waits until it was heard: silence would never end."""
  heard = threading.Event()
  score = Scorer.score

  def slow(*args):
    assert heard.wait(60)
    return score(*args)

  def say(line, text):
    if text.startswith("scoring sft,"):
      heard.set()

  monkeypatch.setattr(Scorer, "score", slow)
  monkeypatch.setattr(progress._Line, "rewrite", say)
  monkeypatch.setattr(progress, "COUNTED", 0.01)
  evaluator.compare([("sft", 1.0)])


def test_the_truth_is_used_only_where_it_is_known(evaluator, batches, panel):
  test = prepare(batches(known=False), panel, 4)
  known = _evaluate(evaluator, 1.0)
  found = _evaluate(evaluator, 1.0, test)
  assert known.keys() - found.keys() == {"preference_match", "future_match"}


def test_users_do_not_depend_on_the_rows_they_share_a_batch_with(
  evaluator, batches, panel
):
  """The fill of a short batch must not reach any score."""

  def constant(params, prompt, key):
    del params, key
    return np.repeat(prompt.images[:, :1], 3, axis=1)

  sevens = prepare(batches(known=True), panel, 7)
  constant = dataclasses.replace(evaluator, generate=constant)
  one, other = (
    _evaluate(constant, None, test) for test in (evaluator.test, sevens)
  )
  for name, values in one.items():
    if not name.startswith(("copy_rate", "discrimination")):  # steps
      # Cosines at the end of CLIP: products of 4 rows need not round as those
      # of 7. Its layers' sums are 2,000 numbers long in all.
      rounding.assert_close(
        values, other[name], terms=2000, scale=1, err_msg=name
      )


def test_every_batch_has_its_own_noise_and_every_model_the_same(evaluator):
  keys = []

  def generate(fidelity, prompt, key):
    keys.append(tuple(jax.random.key_data(key).tolist()))
    return evaluator.generate(fidelity, prompt, key)

  for fidelity in (0.0, 1.0):
    _evaluate(dataclasses.replace(evaluator, generate=generate), fidelity)
  assert len(evaluator.test) == 3
  assert len(set(keys)) == 3
  assert keys[:3] == keys[3:]


def test_no_image_is_generated_for_shuffled_rows(evaluator):
  calls = []

  def generate(fidelity, prompt, key):
    calls.append(fidelity)
    return evaluator.generate(fidelity, prompt, key)

  counting = dataclasses.replace(evaluator, generate=generate)
  counting.compare([("sft", 0.5), ("rl", 1.0)])
  assert calls == [0.5] * 3 + [1.0] * 3


def test_shuffled_histories_keep_their_targets(evaluator):
  """A model that repeats the newest item shows the other user's."""
  found = evaluator.compare([("sft", 1.0)]).scores
  own, other = found["sft"], found["sft shuffled"]
  assert own["preference_match"].mean() > 0.6
  assert other["preference_match"].mean() < 0.4
  assert own["mrr_eye"].mean() > other["mrr_eye"].mean()
  assert own["discrimination_eye"].mean() > other["discrimination_eye"].mean()


def test_every_row_has_distances_but_the_set_that_they_are_from(evaluator):
  found = evaluator.compare([("base", 0.0), ("rl", 1.0)])
  assert found.scores.keys() - found.sets.keys() == {"real_next_item"}
  for sets in found.sets.values():
    assert sets.cells.keys() == {"kid_eye", "cmmd_eye", "frechet_eye"}
  described = {m for row in found.scores.values() for m in row}
  assert set(metrics_lib.in_order(described)) == described


def test_models_are_sampled_at_other_temperatures_but_for_the_base(evaluator):
  calls = []

  def generate(fidelity, prompt, key, temperature=1.0):
    calls.append((fidelity, temperature))
    # Hotter ones see less of the user.
    return evaluator.generate(fidelity / temperature, prompt, key)

  several = dataclasses.replace(
    evaluator, generate=generate, temperatures=(2.0, 1.0)
  )
  found = several.compare([("base", 0.5), ("sft", 0.75), ("rl", 1.0)])
  # The table's own is not sampled again.
  assert calls[::3] == [
    (0.5, 1.0),
    (0.75, 1.0),
    (0.75, 2.0),
    (1.0, 1.0),
    (1.0, 2.0),
  ]
  assert {k: list(v) for k, v in found.curves.items()} == {
    "sft": [1.0, 2.0],
    "rl": [1.0, 2.0],
  }
  assert found.curves["rl"][1.0] is found.scores["rl"]
  cool, hot = (found.curves["rl"][t]["preference_match"] for t in (1.0, 2.0))
  assert cool.mean() > hot.mean()
  assert evaluator.compare([("rl", 1.0)]).curves == {}


def test_midrun_gives_means_and_a_grid(evaluator):
  validation = evaluator.test[1:]
  evaluator = dataclasses.replace(evaluator, validation=validation)
  metrics, grid, seen = evaluator.midrun(1.0, grid_users=3)
  assert metrics.keys() == MIDRUN
  # Without a reward there is nothing that may be hacked.
  assert seen.keys() == {"future_eye_mean", "diversity_eye", "kid_eye"}
  scored = _evaluate(evaluator, 1.0, validation)
  for name in MIDRUN - {"kid_eye"}:
    assert metrics[name] == scored[name].mean(), name
  assert metrics["kid_eye"] == seen["kid_eye"][0]
  np.testing.assert_array_equal(seen["diversity_eye"], scored["diversity_eye"])
  first = validation[0].batch
  np.testing.assert_array_equal(grid[:32, -32:], first.future[0, 0])
  assert all(isinstance(value, float) for value in metrics.values())
  assert grid.dtype == np.uint8
  assert grid.shape[0] == 3 * 32 + 2 * 2
  json.dumps(metrics, allow_nan=False)


def test_midrun_has_what_users_samples_earn(evaluator):
  def reward(samples, targets):
    return np.einsum("uge,ue->u", samples, targets.text)

  paid = dataclasses.replace(
    evaluator, validation=evaluator.test, reward=reward
  )
  found = paid.midrun(1.0)
  scored = _evaluate(evaluator, 1.0)
  np.testing.assert_allclose(
    found.seen["reward"],
    4 * scored["text_clip"],
    atol=4e-7,  # float32, to 4
  )
  assert found.metrics["reward"] == found.seen["reward"].mean()
