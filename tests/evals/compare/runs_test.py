import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals.compare import runs
from tests.evals.compare.conftest import USERS


def _refusal(*paths, **kwargs):
  with pytest.raises(UserError) as error:
    runs.open_runs(paths, **kwargs)
  return str(error.value)


def test_users_come_in_the_order_of_the_first_run(make_run):
  one = make_run("a", 0.1)
  other = make_run("b", 0.1, users=USERS[::-1])
  found = runs.open_runs([one, other])
  assert found[0].users == found[1].users == USERS
  np.testing.assert_array_equal(
    found[0].own["text_clip"], found[1].own["text_clip"]
  )
  assert [run.row for run in found] == ["rl", "rl"]
  assert found[1].seed == 0


def test_rows_are_chosen(make_run):
  one, other = make_run("a"), make_run("b")
  assert [r.row for r in runs.open_runs([one, other], ["sft"])] == ["sft"] * 2
  found = runs.open_runs([one, other], ["sft", "rl"])
  assert [run.row for run in found] == ["sft", "rl"]
  assert "no row 'x'" in _refusal(one, rows=["x"])
  assert "2 runs and 3 rows" in _refusal(one, other, rows=["sft"] * 3)


def test_other_users_horizons_judges_and_data_are_refused(make_run):
  one = make_run("a")
  for name, change, expected in (
    ("horizon", {"data.future_horizon": 1}, "data.future_horizon: 3 there, 1"),
    ("judges", {"eval.judges": ["x"]}, 'eval.judges: null there, ["x"] here'),
    ("clip", {"clip.checkpoint": "c"}, 'clip.checkpoint: "tiny_clip" there'),
    ("path", {"data.path": "d"}, 'data.path: "" there, "d" here'),
    ("world", {"data.num_users": 9}, "data.num_users: 100 there, 9 here"),
  ):
    text = _refusal(one, make_run(name, config=change))
    assert text.startswith(f"these runs cannot be compared with {one}")
    assert f"{name}: {expected}" in text
  text = _refusal(one, make_run("few", users=USERS[:50]))
  assert "few: users: 10 of 60 there and 50 here are in one only" in text
  assert "has no scores.parquet" in _refusal(one, one + "/no")


def test_a_folder_may_have_moved_but_not_changed(make_run):
  def run(name, path, sha):
    config = {"data.path": path, "data.sha256": sha} if sha else {}
    return make_run(name, config={"data.path": path} | config)

  one = run("a", "here", "11")
  assert runs.open_runs([one, run("moved", "there", "11")])
  assert "data.path: 11 there, 22 here" in _refusal(one, run("b", "here", "22"))
  # An evaluation has no hash: its path must do.
  assert runs.open_runs([one, run("evaluated", "here", "")])
  assert "data.path" in _refusal(one, run("other", "there", ""))


def test_what_may_differ(make_run):
  change = {"rl.advantage": "rloo", "eval.judges": [], "seed": 1}
  assert len(runs.open_runs([make_run("a"), make_run("b", config=change)])) == 2
