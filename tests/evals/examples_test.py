import dataclasses

import numpy as np
import pytest

from genrec_jax.data import world
from genrec_jax.evals import held_out
from genrec_jax.evals.examples import ShownImage, examples


@pytest.fixture
def prepared(batches, panel):
  return held_out.prepare(batches(known=True), panel, 4)


def test_users_are_the_first_with_their_own_images(prepared):
  future = np.concatenate([held.batch.future for held in prepared])[:6]
  users = examples(prepared, {"rl": future}, per_model=2)
  assert [user.name for user in users] == [f"user u{i}" for i in range(6)]
  assert len(users[0].history) == 3  # without the padding
  for user, images in zip(users, future, strict=True):
    assert len(user.samples["rl"]) == 2
    np.testing.assert_array_equal(user.real.image, images[0])
    np.testing.assert_array_equal(user.samples["rl"][0].image, images[0])
    assert set(user.wants) >= {
      word for word, wanted in user.real.words if wanted
    }


def test_copies_are_marked_where_the_truth_is_known(prepared, batches, panel):
  copies = prepared[0].batch.history[:, :1]
  (user, *_) = examples(prepared, {"rl": copies})
  assert user.samples["rl"][0].copied
  assert not any(image.copied for image in user.history)
  unknown = held_out.prepare(batches(known=False), panel, 4)
  (user, *_) = examples(unknown, {"rl": copies})
  assert user.wants == ()
  assert user.samples["rl"][0] == ShownImage(user.samples["rl"][0].image)


def test_titles_are_of_the_newest_items_where_older_ones_were_left_out(
  prepared,
):
  held = dataclasses.replace(
    prepared[0],
    titles=("next",) * 4,
    history_titles=(("gone", "a", "b", "c"), *[tuple("abcde")] * 3),
  )
  (user, *_) = examples([held], {"rl": held.batch.future})
  assert [image.title for image in user.history] == ["a", "b", "c"]
  assert user.real.title == "next"


def test_a_title_is_shown_if_it_says_more_than_what_is_seen():
  image = np.zeros((32, 32, 3), np.uint8)
  words = tuple((word, False) for word in world.title([0] * 5).split())
  seen = " ".join(word for word, _ in words)
  assert not ShownImage(image, words, title=seen).titled
  assert ShownImage(image, words, title="Heat (1995)").label == "Heat (1995)"
  assert ShownImage(image, words).label == seen


def test_a_written_title_is_shown_with_its_image(prepared):
  future = np.concatenate([held.batch.future for held in prepared])[:3, :2]
  titles = np.asarray([["a cross", "b"], ["c", "d"], ["e", "f"]], object)
  users = examples(
    prepared, {"rl": future, "sft": future}, titles={"rl": titles}
  )
  for user, (first, *_) in zip(users, titles, strict=True):
    assert user.samples["rl"][0].title == first
    assert user.samples["sft"][0].title == ""
  assert users[0].writes
  assert not examples(prepared, {"sft": future})[0].writes
  image = np.zeros((32, 32, 3), np.uint8)
  words = (("red", False), ("cross", True))
  # Also where it says what is seen: that is what a reader looks for.
  assert ShownImage(image, words, title="red cross", written=True).titled
  assert not ShownImage(image, words, written=True).titled
