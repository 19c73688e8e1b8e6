from genrec_jax.evals import page_table
from tests.evals.table_test import SUMMARY


def test_rows_have_a_cell_for_every_metric():
  groups = dict(page_table.groups(SUMMARY))
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
  for _, rows in page_table.groups(SUMMARY):
    for row in rows:
      for cell in filter(None, row.cells):
        assert (
          4 <= cell.bar["low"] <= cell.bar["mean"] <= cell.bar["high"] <= 80
        )
  groups = dict(page_table.groups(SUMMARY))
  rate = [row.cells[1].bar for row in groups["baseline"]]
  assert rate[-1] == {"mean": 80, "low": 80, "high": 80}  # 1.0 of copy_last
  assert groups["model"][1].cells[1].bar["high"] == 80  # the widest of the rest
