from genrec_jax.evals import page_table
from tests.evals.table_test import JUDGED, SUMMARY

METRICS = ["text_clip", "copy_rate", "diversity"]


def test_rows_have_a_cell_for_every_metric():
  groups = dict(page_table.groups(SUMMARY, METRICS))
  assert list(groups) == ["model", "shuffled", "baseline"]
  (base, rl), (shuffled,) = groups["model"], groups["shuffled"]
  assert groups["baseline"][0].name == "real next item"
  assert [cell is None for cell in base.cells] == [False, False, True]
  assert [cell.best for cell in rl.cells] == [True, False, False]
  # As the model's own row, but hollow, and never the best.
  assert shuffled.colour == rl.colour != base.colour
  assert shuffled.hollow
  assert not any(cell and cell.best for cell in shuffled.cells)


def test_bars_stay_on_their_scale_and_copy_last_does_not_stretch_it():
  for _, rows in page_table.groups(SUMMARY, METRICS):
    for row in rows:
      for cell in filter(None, row.cells):
        assert (
          4 <= cell.bar["low"] <= cell.bar["mean"] <= cell.bar["high"] <= 80
        )
  groups = dict(page_table.groups(SUMMARY, METRICS))
  rate = [row.cells[1].bar for row in groups["baseline"]]
  assert rate[-1] == {"mean": 80, "low": 80, "high": 80}  # 1.0 of copy_last
  assert groups["model"][1].cells[1].bar["high"] == 80  # the widest of the rest


def test_a_judge_has_two_tables_and_sets_are_in_the_second():
  main, likeness, ranking = page_table.tables(JUDGED)
  assert [table.title for table in (main, likeness, ranking)] == [
    "",
    "By eye: likeness",
    "By eye: ranking and sets",
  ]
  assert [metric.head for metric in likeness.metrics] == ["future mean"]
  assert [metric.head for metric in ranking.metrics] == [
    "HR@10",
    "KID",
    "Frechet",
  ]
  rl = dict(ranking.groups)["model"][1]
  hits, kid, frechet = rl.cells
  assert (hits.interval["mean"], kid.interval["mean"]) == (0.5, 0.25)
  # Without an interval, a dot on its scale.
  assert (kid.images, frechet.images) == (0, 9)
  assert frechet.bar["low"] == frechet.bar["mean"] == frechet.bar["high"]
  shuffled = dict(ranking.groups)["shuffled"][0]
  assert shuffled.cells[1].interval["mean"] == 0.5


def test_shuffled_rows_are_explained_where_a_table_has_some():
  assert [t.shuffled for t in page_table.tables(JUDGED)] == [True, False, True]
