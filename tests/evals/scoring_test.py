import dataclasses

import jax
import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import catalogue as catalogue_lib
from genrec_jax.evals import held_out, scores, set_distances
from genrec_jax.evals.metrics import in_order, metric_of
from genrec_jax.evals.scoring import Scorer, Shown, stacked
from genrec_jax.evals.shuffled import derangement

THRESHOLDS = {"clip": 0.95, "eye": 0.95}


def encode(catalogue, panel, **changes):
  given = {
    "trained": np.ones(len(catalogue), bool),
    "batch_size": 64,
    "num_samples": 4,
    "known": True,
  }
  return catalogue_lib.encode(catalogue, panel, **given | changes)


@pytest.fixture
def users(batches, panel):
  return held_out.join(held_out.prepare(batches(known=True), panel, 4))


@pytest.fixture
def scorer(users, catalogue, panel):
  return Scorer(users, THRESHOLDS, 0, encode(catalogue, panel))


def test_a_row_is_scored_by_every_encoder_and_by_the_truth(scorer, users):
  found = scorer.score(scorer.items.shown(users.rows.target[:, None]))
  assert all(values.shape == (10,) for values in found.values())
  assert set(in_order(found)) == found.keys()  # each has a meaning
  means = {name: values.mean() for name, values in found.items()}
  # The real next item, looked for among all items, and not a copy.
  for name in ("hit_rate_eye", "mrr_eye", "future_eye_next"):
    assert means[name] == pytest.approx(1), name
  assert means["lift_eye"] == pytest.approx(2875 / 10)
  assert means["catalogue_copy_eye"] == means["catalogue_copy_clip"] == 1
  assert means["copy_rate"] == means["copy_rate_eye"] == 0
  assert means["preference_match"] > 0.7
  assert "text_clip" in found
  assert "text_eye" not in found  # it has no text tower
  # An image has no other of the same user.
  np.testing.assert_array_equal(
    found["diversity"],
    scores.spread(np.asarray(users.targets["clip"].future)[:, :1]),
  )
  assert np.isnan(found["diversity_eye"]).all()
  assert 0 < means["spread_eye"] < 2
  # Users of one world share futures, so there are ties and better ones.
  assert 0.6 < means["discrimination_eye"] <= 1


def test_a_rater_scores_quality_and_nothing_else(users, scorer):
  """Its cosines with the title, times its scale; see `cosines.quality`."""
  shown = scorer.items.shown(users.rows.target[:, None])
  name = "quality_pick"
  eye = users.targets["eye"]
  rng = np.random.default_rng(0)
  titles = rng.normal(size=eye.future[:, 0].shape).astype(np.float32)
  titled = dataclasses.replace(eye, text=titles)
  rated = users._replace(targets={**users.targets, name: titled})
  seen = Shown({**shown.embeds, name: shown.embeds["eye"]}, shown.attributes)
  with_rater = dataclasses.replace(
    scorer, users=rated, raters={name: np.log(100.0)}
  )
  found, without = with_rater.score(seen), scorer.score(shown)
  assert found.keys() - without.keys() == {name}
  expected = 100 * np.einsum("uge,ue->u", seen.embeds[name], titles)
  np.testing.assert_allclose(found[name], expected, rtol=1e-4)
  order = in_order(found)
  assert order.index("text_clip") < order.index(name)
  assert order.index(name) < order.index("history_eye_mean")
  assert metric_of(name).title == "quality by pick"
  assert not metric_of(name).judge
  assert with_rater.sets(seen)[0].keys() == scorer.sets(shown)[0].keys()
  # Who rates judges nothing: no alarm may ring by it.
  assert with_rater.kid(seen).keys() == {"kid_eye"}
  untitled = dataclasses.replace(titled, text=np.full_like(titles, np.nan))
  none = users._replace(targets={**users.targets, name: untitled})
  assert name not in dataclasses.replace(with_rater, users=none).score(seen)


def test_the_truth_takes_the_place_of_the_threshold(users, panel, batches):
  """Exact copies by CLIP of another colour are none by the truth."""
  copies = np.concatenate(
    [batch.history[:, :1] for batch, _ in batches(known=True)]
  )
  embeds = panel.embed_images(copies)
  shown = Shown(embeds, users.truth.history[:, :1] + 1)
  found = Scorer(users, THRESHOLDS, 0).score(shown)
  assert (found["copy_rate"] == 0).all()
  assert (found["copy_rate_eye"] == 1).all()
  blind = Scorer(users._replace(truth=None), THRESHOLDS, 0).score(shown)
  assert (blind["copy_rate"] == 1).all()
  assert "preference_match" not in blind


def test_nothing_is_ranked_without_the_catalogue(users, scorer):
  shown = scorer.items.shown(users.rows.target[:, None])
  found = Scorer(users, {"clip": 0.95}, 0).score(shown)
  missing = scorer.score(shown).keys() - found.keys()
  assert missing == {
    "catalogue_copy_clip",
    "catalogue_copy_eye",
    "hit_rate_eye",
    "ndcg_eye",
    "mrr_eye",
    "lift_eye",
    "copy_rate_eye",  # without a threshold of its own
  }


def test_shuffled_users_are_scored_by_anothers_samples(scorer, users):
  """User u's score is that of source[u]'s samples against u's targets."""
  source = derangement(10, seed=0)
  rng = np.random.default_rng(0)
  numbers = rng.integers(world.NUM_ITEMS, size=(10, 3))
  found = scorer.score(scorer.items.shown(numbers).to(source))
  expected = scorer.score(scorer.items.shown(numbers[source]))
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_sets_are_by_judges_only(scorer, users):
  rng = np.random.default_rng(0)
  shown = scorer.items.shown(rng.integers(world.NUM_ITEMS, size=(10, 3)))
  found, parts = scorer.sets(shown)
  assert list(found) == ["kid_eye", "cmmd_eye", "frechet_eye"]
  assert list(parts) == ["kid_eye", "cmmd_eye"]  # Frechet's is of no users
  real = users.targets["eye"].future[:, 0]
  expected = set_distances.distances(
    shown.embeds["eye"], real, np.ones((1, 10))
  )
  kid = found["kid_eye"]
  assert kid["mean"] == pytest.approx(expected.kid[0])
  assert kid["low"] < kid["mean"] < kid["high"]
  assert found["cmmd_eye"]["mean"] == pytest.approx(expected.cmmd[0])
  for metric, values in parts.items():
    assert values.shape == (10,)
    assert values.mean() == pytest.approx(found[metric]["mean"])
  assert found["frechet_eye"]["images"] == 30
  assert found["frechet_eye"]["real"] == 10
  one = held_out.Users(
    {k: _first(v) for k, v in users.targets.items()}, None, None
  )
  alone = Scorer(one, THRESHOLDS, 0)
  assert alone.sets(shown.to(np.arange(1))) == ({}, {})
  assert alone.kid(shown.to(np.arange(1))) == {}


def test_without_next_images_there_is_no_set_to_compare_with(scorer, users):
  eye = users.targets["eye"]
  mask = np.array(eye.future_mask)
  mask[3, 0] = False
  unknown = dataclasses.replace(eye, future_mask=mask)
  users = users._replace(targets={**users.targets, "eye": unknown})
  shown = scorer.items.shown(np.arange(30).reshape(10, 3))
  assert scorer.kid(shown).keys() == {"kid_eye"}
  scorer = dataclasses.replace(scorer, users=users)
  assert scorer.kid(shown) == {}
  assert scorer.sets(shown) == ({}, {})


def _first(targets):
  return jax.tree.map(lambda x: x[:1], targets)


def test_parts_are_stacked_in_order(scorer):
  shown = scorer.items.shown(np.arange(6)[:, None])
  parts = [shown.to(np.arange(4)), shown.to(np.arange(4, 6))]
  whole = stacked(parts)
  np.testing.assert_array_equal(whole.attributes, shown.attributes)
  np.testing.assert_array_equal(whole.embeds["eye"], shown.embeds["eye"])
  unknown = [part._replace(attributes=None) for part in parts]
  assert stacked(unknown).attributes is None


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_every_item_of_a_catalogue_is_encoded_once(catalogue, panel, size):
  done = []
  found = encode(
    catalogue[:size],
    panel,
    batch_size=2,
    num_samples=4,
    trained=np.arange(size) > 3,
    done=done.append,
  )
  assert sum(done) == size
  np.testing.assert_allclose(
    found.embeds["eye"], panel.embed_images(catalogue[:size])["eye"], rtol=1e-5
  )
  np.testing.assert_array_equal(
    found.attributes, world.attributes(np.arange(size))
  )
  unread = encode(catalogue[:size], panel, known=False)
  assert unread.attributes is None
