import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals import differences, per_user

USERS = ["u1", "it's", "3"]
ROWS = {
  "rl": {
    "text_clip": np.asarray([0.5, 0.25, 1 / 3]),
    "copy_rate": np.asarray([0.0, np.nan, 1.0]),
  },
  "rl shuffled": {"text_clip": np.asarray([0.0, 0.125, 0.25])},
}


@pytest.mark.parametrize("name", ["run", "model=x", "a[0]*"])
def test_scores_come_back_as_they_were(tmp_path, name):
  """From folders, too, whose names DuckDB could take for columns or more."""
  tmp_path = tmp_path / name
  tmp_path.mkdir()
  per_user.write(str(tmp_path), USERS, ROWS)
  users, found = per_user.read(str(tmp_path))
  assert users == USERS
  assert list(found) == list(ROWS)
  for row, metrics in ROWS.items():
    for name, values in metrics.items():
      np.testing.assert_array_equal(found[row][name], values)
  assert np.isnan(found["rl shuffled"]["copy_rate"]).all()
  assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


@pytest.fixture
def runs(tmp_path):
  """Two runs of the same users, in another order in the second."""
  rng = np.random.default_rng(0)
  users = [f"u{i}" for i in range(50)]
  a, b = rng.normal(size=(2, 50))
  order = rng.permutation(50)
  folders = tmp_path / "a", tmp_path / "b"
  for folder in folders:
    folder.mkdir()
  per_user.write(str(folders[0]), users, {"rl": {"text_clip": a}})
  shuffled = [users[i] for i in order]
  rows = {"rl": {"text_clip": b[order]}, "sft": {"text_clip": a[order]}}
  per_user.write(str(folders[1]), shuffled, rows)
  return *map(str, folders), a, b


def test_runs_are_compared_user_by_user(runs):
  one, other, a, b = runs
  found = per_user.paired(one, other, "rl", "rl")
  rows = {"a": {"text_clip": a}, "b": {"text_clip": b}}
  expected = differences.paired(rows, [("a", "b")], seed=0)["a - b"]
  assert found["text_clip"] == pytest.approx(expected["text_clip"])
  same = per_user.paired(one, other, "rl", "sft")["text_clip"]
  assert same == {"mean": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1}
  assert per_user.paired(one, one, "rl", "rl")["text_clip"]["high"] == 0


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
  one, other, _, _ = runs
  with pytest.raises(UserError, match=r"no row 'base' in .*expected one of rl"):
    per_user.paired(one, other, "base", "rl")
  with pytest.raises(UserError, match=r"has no scores\.parquet: expected"):
    per_user.paired(one, str(tmp_path), "rl", "rl")
  per_user.write(str(tmp_path), USERS, ROWS)
  with pytest.raises(UserError, match="different users, 51 of 50 and 3"):
    per_user.paired(one, str(tmp_path), "rl", "rl")
