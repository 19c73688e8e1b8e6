import dataclasses
import json

import pytest

from genrec_jax.data import world
from genrec_jax.evals import metrics, per_user, results
from genrec_jax.evals.held_out import prepare


def _finish(models, evaluator, workdir, **kwargs):
  comparison = evaluator.compare(models, **kwargs)
  return results.write(str(workdir), evaluator, comparison)


def test_a_comparison_leaves_a_summary_a_table_and_a_page(
  evaluator, tmp_path, capsys
):
  loaded = []

  def late():
    loaded.append("rl")
    return 1.0

  models = [("base", 0.0), ("sft", 0.7), ("rl", late)]
  summary = _finish(models, evaluator, tmp_path, keep=3)
  assert loaded == ["rl"]
  assert json.loads((tmp_path / "summary.json").read_text()) == summary
  assert summary["users"] == 10
  assert any("base" in line for line in summary["verdicts"])
  assert list(summary["models"]) == [
    "base",
    "sft",
    "rl",
    "real_next_item",
    "random_item",
    "copy_last",
    "oracle_best_guess",
    "oracle_ideal_sample",
  ]
  assert list(summary["shuffled"]) == ["sft", "rl"]
  for row in (*summary["models"].values(), *summary["shuffled"].values()):
    assert row.keys() >= metrics.METRICS.keys()
    assert "mrr_eye" in row
    for cell in row.values():
      assert cell["low"] <= cell["mean"] <= cell["high"]
  match = {k: v["preference_match"] for k, v in summary["models"].items()}
  assert match["base"]["mean"] < match["rl"]["mean"]
  shuffled = summary["shuffled"]["rl"]["preference_match"]["mean"]
  assert shuffled < match["rl"]["mean"] - 0.2
  assert summary["sets"]["rl"].keys() == {"kid_eye", "cmmd_eye", "frechet_eye"}
  assert "real_next_item" not in summary["sets"]
  users, scores = per_user.read(str(tmp_path))
  assert len(users) == 10
  assert scores["rl"]["kid_eye"].mean() == pytest.approx(
    summary["sets"]["rl"]["kid_eye"]["mean"]
  )
  out = capsys.readouterr().out
  assert "real next item" in out
  assert "rl shuffled" in out
  page = (tmp_path / "report.html").read_text()
  assert page.count('<article class="user">') == 3
  assert "wants now" in page


def test_a_frontier_is_in_all_files(evaluator, tmp_path, capsys):
  def generate(fidelity, prompt, key, temperature=1.0):
    return evaluator.generate(fidelity / temperature, prompt, key)

  several = dataclasses.replace(
    evaluator, generate=generate, temperatures=(1.5,)
  )
  summary = _finish([("sft", 0.6), ("rl", 0.7)], several, tmp_path)
  found = json.loads((tmp_path / "summary.json").read_text())["frontier"]
  assert found == summary["frontier"]
  # By the judge, which rewards nothing.
  assert (found["alignment"], found["diversity"]) == (
    "preference_match",
    "diversity_eye",
  )
  assert found["differences"].keys() == {"rl - sft"}
  # By user, for those who compare with other runs; the table's own once.
  _, scores = per_user.read(str(tmp_path))
  colder = [name for name in scores if "at temperature" in name]
  assert colder == ["sft at temperature 1.5", "rl at temperature 1.5"]
  (point,) = [p for p in found["curves"]["rl"] if p["temperature"] == 1.5]
  assert scores[colder[1]]["diversity_eye"].mean() == pytest.approx(
    point["diversity"]["mean"]
  )
  assert "At equal diversity" in (tmp_path / "report.html").read_text()
  assert "rl - sft at equal diversity: preference match" in " ".join(
    capsys.readouterr().out.split()
  )


def test_a_comparison_without_the_truth(evaluator, batches, panel, tmp_path):
  test = prepare(batches(known=False), panel, 4)
  unknown = dataclasses.replace(evaluator, test=test)
  summary = _finish([("sft", 0.9)], unknown, tmp_path)
  for row in summary["models"].values():
    assert "preference_match" not in row
    assert "copy_rate" in row
  page = (tmp_path / "report.html").read_text()
  assert "wants now" not in page
  assert world.title([0, 0, 0, 0, 0]) not in page


def test_a_single_user_has_no_shuffled_rows(evaluator, tmp_path):
  one = [dataclasses.replace(evaluator.test[0], count=1)]
  lonely = dataclasses.replace(evaluator, test=one)
  summary = _finish([("sft", 0.9)], lonely, tmp_path)
  assert summary["users"] == 1
  assert summary["shuffled"] == {}
