import dataclasses

import numpy as np
import pytest

from genrec_jax import rows
from genrec_jax.core.errors import UserError
from genrec_jax.evals import (
  baselines,
  held_out,
  kept_images,
  results,
  shuffled,
)


def test_a_comparison_keeps_what_each_row_shows(evaluator, tmp_path):
  keeping = dataclasses.replace(evaluator, keep_images=6)
  comparison = keeping.compare([("sft", 0.5), ("rl", 1.0)], keep=3)
  assert comparison.samples["rl"].shape == (3, 4, 32, 32, 3)
  results.write(str(tmp_path), keeping, comparison)
  users = kept_images.read(str(tmp_path))
  assert [user.name for user in users] == [f"u{i}" for i in range(6)]
  batches = [held.batch for held in keeping.test]
  second = users[4]  # the first row of the second batch
  np.testing.assert_array_equal(
    np.stack(second.history), batches[1].history[0][:3]
  )  # its mask leaves three
  items = baselines.items(
    held_out.join(keeping.test).rows,
    len(keeping.catalogue),
    num_samples=keeping.num_samples,
    seed=keeping.seed,
  )
  source = int(shuffled.derangement(10, keeping.seed)[4])
  samples = evaluator.sample(1.0, evaluator.test, keep=[4, source])[1]
  expected = {
    "sft": comparison.images["sft"][4],
    "sft shuffled": comparison.images["sft shuffled"][4],
    "rl": samples[0, 0],
    "rl shuffled": samples[1, 0],  # what somebody else was shown
    "real_next_item": batches[1].future[0, 0],
    "random_item": keeping.catalogue[items["random_item"][4, 0]],
    "copy_last": batches[1].history[0, 2],
  }
  assert list(second.images) == [*expected, *rows.ORACLES]
  for row, image in expected.items():
    np.testing.assert_array_equal(second.images[row], image, err_msg=row)


def test_titles_stand_with_their_items(evaluator, tmp_path):
  # The prompt had room for two: the oldest of three titles is left out.
  held = dataclasses.replace(
    evaluator.test[0],
    history_titles=(("old", "<b>new", "newest"),) + (("t",) * 5,) * 3,
  )
  mask = held.batch.history_mask.copy()
  mask[0] = [True, True, False, False, False]
  held = dataclasses.replace(held, batch=held.batch.replace(history_mask=mask))
  images = {"rl": np.zeros((2, 32, 32, 3), np.uint8)}
  kept_images.write(str(tmp_path), [held], images)
  first, second = kept_images.read(str(tmp_path))
  assert first.titles == ("<b>new", "newest")
  assert second.titles == ("t",) * 5


def test_unknown_titles_are_empty(evaluator, tmp_path):
  images = {"rl": np.zeros((1, 32, 32, 3), np.uint8)}
  kept_images.write(str(tmp_path), evaluator.test, images)
  assert kept_images.read(str(tmp_path))[0].titles == ("",) * 3


def test_nothing_is_kept_unless_asked(evaluator, tmp_path):
  comparison = evaluator.compare([("rl", 1.0)])
  assert comparison.images == {}
  results.write(str(tmp_path), evaluator, comparison)
  assert not (tmp_path / kept_images.FILE).exists()
  with pytest.raises(UserError, match=r"keep_images"):
    kept_images.read(str(tmp_path))
