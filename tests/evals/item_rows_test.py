import dataclasses

import numpy as np
import pytest

from genrec_jax import rows
from genrec_jax.data import world
from genrec_jax.evals import item_rows, ranking_scores, retrieval
from genrec_jax.evals.held_out import join, prepare
from genrec_jax.evals.recommenders import interactions
from genrec_jax.evals.scoring import Items

NUMBER = 3  # samples a user


@pytest.fixture
def items(catalogue, panel):
  size = len(catalogue)
  return Items(
    panel.embed_images(catalogue),
    world.attributes(np.arange(size)),
    np.ones(size, bool),
  )


@pytest.fixture
def learned():
  rng = np.random.default_rng(0)
  histories = [rng.permutation(world.NUM_ITEMS)[:8] for _ in range(50)]
  return interactions.of_histories(histories, world.NUM_ITEMS)


def choose(users, items, learned, names):
  return item_rows.choose(
    users,
    items,
    recommenders=names,
    interactions=learned,
    num_samples=NUMBER,
    seed=0,
  )


def test_rows_show_unseen_items_and_rank_by_themselves(
  evaluator, items, learned
):
  users = join(evaluator.test)
  names = ("most_popular", "content_knn")
  found = choose(users, items, learned, names)
  assert found.numbers.keys() == {
    *(rows.BASELINES.keys() - {"vq_ceiling"}),
    *rows.ORACLES,
    *names,
  }
  assert found.ranks.keys() == {*names, "oracle_best_guess"}
  for name in (*names, *rows.ORACLES):
    width = NUMBER if name == "oracle_ideal_sample" else 1
    assert found.numbers[name].shape == (10, width)
    for shown, seen in zip(found.numbers[name], users.rows.seen, strict=True):
      assert not np.isin(shown, seen).any(), name
  # Better than a random ranking of 3,600 items by far.
  assert np.median(found.ranks["oracle_best_guess"]) < 400


def test_content_is_what_a_judge_sees_or_else_clip(evaluator, items, learned):
  users = join(evaluator.test)
  assert item_rows.judge_or_clip(items) == "eye"
  blind = items._replace(embeds={"clip": items.embeds["clip"]})
  assert item_rows.judge_or_clip(blind) == "clip"
  # What rates images says nothing of which are alike.
  rated = blind._replace(
    embeds={**blind.embeds, "quality_pick": items.embeds["eye"]}
  )
  assert item_rows.judge_or_clip(rated) == "clip"
  own, other = (
    choose(users, seen, learned, ["content_knn"]).numbers["content_knn"]
    for seen in (items, blind)
  )
  assert (own != other).any()


def test_oracles_are_only_where_the_truth_is(batches, panel, items, learned):
  unknown = join(prepare(batches(known=False), panel, 4))
  assert not choose(unknown, items, learned, ()).numbers.keys() & rows.ORACLES
  # Of a part of the world, numbers are not the world's.
  known = join(prepare(batches(known=True), panel, 4))
  known = known._replace(
    rows=known.rows._replace(
      history=tuple(h % 100 for h in known.rows.history),
      seen=tuple(s % 100 for s in known.rows.seen),
      target=known.rows.target % 100,
    )
  )
  part = items._replace(trained=items.trained[:100])
  assert not choose(known, part, None, ()).numbers.keys() & rows.ORACLES


def test_a_table_has_recommenders_ranked_by_themselves(
  evaluator, learned, tmp_path
):
  del tmp_path
  evaluator = dataclasses.replace(
    evaluator, recommenders=("most_popular",), interactions=learned
  )
  found = evaluator.compare([("rl", 1.0)])
  users = join(evaluator.test)
  scores = np.tile(learned.counts.astype(float), (10, 1))
  seen = ranking_scores.seen_mask(users.rows.seen, world.NUM_ITEMS)
  ranks = retrieval.ranks(scores, seen, users.rows.target)
  np.testing.assert_array_equal(
    found.scores["most_popular"]["mrr_eye"], retrieval.mrr(ranks)
  )
  best = found.scores["oracle_best_guess"]["preference_match"].mean()
  assert best > found.scores["random_item"]["preference_match"].mean() + 0.3
