import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data.eval_batches import eval_batches
from tests.data.tiny_data import (
  SPEC,
  assert_equal,
  fake_dataset,
  windows_in,
)


@pytest.mark.parametrize(("split", "target"), [("validation", 8), ("test", 10)])
def test_evaluation_is_of_held_out_users(evaluation, dataset, split, target):
  batches = evaluation(split=split)
  assert [len(batch.history_mask) for batch, _ in batches] == [4, 4, 2]
  rows = iter(range(30, 40))
  for batch, info in batches:
    found = windows_in([batch])
    for i, (history, future) in enumerate(found):
      record = dataset.users[next(rows)]
      items = record["rows"].tolist()
      assert history == tuple(items[target - 5 : target])
      assert future == tuple(items[target : target + 2])  # not the next part
      assert info["user"][i] == record["id"].decode()
      assert info["target"][i] == f"{items[target]:04d}"
      assert info["history"][i] == [f"{item:04d}" for item in history]
      assert info["future"][i] == [f"{item:04d}" for item in future]
      assert info["target_row"][i] == items[target]
      assert info["history_rows"][i].tolist() == list(history)
      assert info["seen_rows"][i].tolist() == items[:target]
      np.testing.assert_array_equal(info["wants"][i], record["wants"][target])
  assert next(rows, None) is None


def test_evaluation_can_be_read_again_and_in_part(evaluation):
  batches = evaluation()
  assert_equal([b for b, _ in batches], [b for b, _ in evaluation()])
  some = evaluation(num_users=5)
  users = [user for _, info in some for user in info["user"]]
  assert users == [f"u{i:06d}" for i in (30, 32, 34, 36, 38)]
  assert len([u for _, i in evaluation(num_users=99) for u in i["user"]]) == 10


def test_training_and_evaluation_prompts_are_equally_long(stream, evaluation):
  assert (
    next(iter(stream())).prompt.ids.shape[1]
    == evaluation()[0].batch.prompt.ids.shape[1]
  )


def test_no_windows_to_evaluate_is_an_error(processor, clip_tokenizer):
  dataset = fake_dataset([(range(2), (2, 2, 2))])
  with pytest.raises(UserError, match=r"no test windows.*at least 3 items"):
    eval_batches(dataset, processor, clip_tokenizer, SPEC, batch_size=1)
