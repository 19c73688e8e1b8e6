import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.evals.recommenders import interactions, sasrec
from genrec_jax.evals.recommenders import sasrec_training as training

SIZES = {
  "num_items": 7,
  "length": 4,
  "width": 8,
  "num_layers": 1,
  "num_heads": 2,
}
MODEL = sasrec.SASRec(**SIZES, dropout=0.0)


@pytest.fixture(scope="module")
def params():
  key = jax.random.key(0)
  found = MODEL.init(key, np.zeros((1, 4), np.int32))["params"]
  return jax.tree.map(lambda x: 10 * x, found)  # so that nothing is near 0


def test_a_state_knows_nothing_of_later_items(params):
  items = np.asarray([[1, 2, 3, 4], [1, 2, 6, 0]])
  states, table = MODEL.apply({"params": params}, items)
  assert states.shape == (2, 4, 8)
  assert table.shape == (7, 8)
  np.testing.assert_array_equal(states[0, :2], states[1, :2])
  assert np.abs(states[0, 2:] - states[1, 2:]).min(0).max() > 0.01


def test_the_loss_over_all_items_is_cross_entropy(params):
  rng = np.random.default_rng(0)
  batch = {
    "items": rng.integers(7, size=(3, 4)),
    "targets": rng.integers(7, size=(3, 4)),
    "mask": np.asarray([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool),
    "others": np.arange(7),
  }
  found = sasrec.loss(MODEL, params, batch, jax.random.key(0))
  states, table = MODEL.apply({"params": params}, batch["items"])
  logits = jax.nn.log_softmax(states @ table.T)
  own = np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
  np.testing.assert_allclose(found, -own[batch["mask"]].mean(), rtol=1e-5)


def test_sampled_items_stand_for_all_others(params):
  """Their weighted sum is right in the mean over samples."""
  items, target = np.asarray([[1]]), np.asarray([[3]])
  small = jax.tree.map(lambda x: x / 10, params)

  def likelihood(others):
    batch = {"items": items, "targets": target, "mask": items > 0}
    return sasrec.loss(
      MODEL, small, batch | {"others": others}, jax.random.key(0)
    )

  every = jax.vmap(likelihood)(jnp.arange(7)[:, None])  # one other item each
  rivals = np.exp(np.delete(np.asarray(every, np.float64), 3)) - 1
  exact = np.exp(float(likelihood(jnp.arange(7)))) - 1
  np.testing.assert_allclose(rivals.mean(), exact, rtol=1e-4)


def cycles(users, length, num_items, seed):
  """Returns histories in which item i + 1 follows item i."""
  starts = np.random.default_rng(seed).integers(num_items, size=users)
  return list((starts[:, None] + np.arange(length)) % num_items)


def test_it_learns_what_follows_what(capsys):
  found = interactions.of_histories(cycles(200, 6, 20, seed=0), 20)
  options = training.Options(
    length=5, width=16, dropout=0.1, lr=5e-3, steps=200, check_every=50
  )
  score = training.sasrec(found, options)
  asked = cycles(20, 3, 20, seed=1)
  answers = [(history[-1] + 1) % 20 for history in asked]
  assert (score(asked).argmax(-1) == answers).mean() > 0.9
  # A history that is longer than any it learned from is cut at its start.
  (long,) = cycles(1, 30, 40, seed=2)
  assert score([long % 20]).argmax() == (long[-1] + 1) % 20
  again = training.sasrec(found, options)
  np.testing.assert_array_equal(score(asked), again(asked))


def test_what_is_held_back_is_not_learned():
  histories = [np.asarray([1, 2]), np.asarray([3, 4, 5]), np.asarray([6, 7, 8])]
  found = interactions.of_histories(histories, 9)
  left, asked, answers = training._hold_back(found, users=9, seed=0)
  np.testing.assert_array_equal(left.starts, [0, 2, 4, 6])
  np.testing.assert_array_equal(left.items, [1, 2, 3, 4, 6, 7])
  assert sorted(answers.tolist()) == [5, 8]
  for history, answer in zip(asked, answers, strict=True):
    assert history.tolist() == [answer - 2, answer - 1]
  assert len(training._hold_back(found, users=1, seed=0)[2]) == 1


def test_windows_stay_within_their_users():
  found = interactions.of_histories([[1, 2, 3, 4, 5], [7], [8, 9]], 20)
  places = training._target_places(found)
  np.testing.assert_array_equal(places, [1, 2, 3, 4, 7])
  options = training.Options(length=3, batch_size=64)
  batch = training._batch(found, places, np.random.default_rng(0), options)
  seen = set()
  for items, targets, mask in zip(
    batch["items"], batch["targets"], batch["mask"], strict=True
  ):
    size = mask.sum()
    assert mask[:size].all()  # filled up at the end
    assert (targets[:size] == items[:size] + 1).all()
    assert 7 not in items[:size]
    seen.add((items[0], size))
  assert seen == {(1, 1), (1, 2), (1, 3), (2, 3), (8, 1)}
  np.testing.assert_array_equal(batch["others"], np.arange(20))


def test_nothing_to_learn_from_is_no_error():
  found = interactions.of_histories([np.asarray([3])], 5)
  scores = training.sasrec(found, training.Options(length=2))(
    [np.asarray([1]), np.asarray([2, 3, 4])]
  )
  assert scores.shape == (2, 5)
  assert np.isfinite(scores).all()


def test_dropout_needs_a_key_and_changes_the_loss(params):
  model = sasrec.SASRec(**SIZES, dropout=0.5)
  batch = {
    "items": np.asarray([[1, 2]]),
    "targets": np.asarray([[2, 3]]),
    "mask": np.ones((1, 2), bool),
    "others": np.arange(7),
  }
  losses = [
    float(sasrec.loss(model, params, batch, jax.random.key(seed)))
    for seed in (0, 0, 1)
  ]
  assert losses[0] == losses[1] != losses[2]
