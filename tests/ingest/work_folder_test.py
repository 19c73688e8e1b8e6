"""A work folder: one process at a time, and nothing of other data."""

import itertools

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.ingest import work_folder

LENGTHS = (9, 3, 1, 6)


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_work):
  return make_work(tmp_path_factory.mktemp("import"), LENGTHS)


def test_tables_are_read_in_pieces_as_in_one(work):
  assert work.count(work_folder.USERS) == len(LENGTHS)
  assert work.count(work_folder.EVENTS) == sum(LENGTHS)
  ids = [item.id for item in work.items()]
  assert ids == work.item_ids()
  assert [item.id for item in work.items(3, 7)] == ids[3:7]
  assert [item.id for item in work.items_at([2, 5])] == [ids[2], ids[5]]
  titles = [item.title for item in work.items()]
  assert list(itertools.chain(*work.titles(7))) == titles
  whole = list(work.histories())
  for batch in (1, 3, 9):
    lengths, splits, rows = map(
      np.concatenate, zip(*work.rows_of_users(batch), strict=True)
    )
    assert lengths.tolist() == list(LENGTHS)
    assert splits.tolist() == [list(history.splits) for history, _ in whole]
    np.testing.assert_array_equal(rows, np.concatenate([r for _, r in whole]))


def test_a_work_folder_belongs_to_one_import(tmp_path):
  out = tmp_path / "data"
  with work_folder.claim(out) as folder:
    assert folder == tmp_path / ".data.work"
    with (
      pytest.raises(UserError, match=r"another import to .* is running"),
      work_folder.claim(out),
    ):
      pass
    assert folder.exists()
  assert not folder.exists()


def test_a_work_folder_stays_where_it_holds_images(tmp_path):
  def stay(error, file):
    with work_folder.claim(tmp_path / "data") as folder:
      (folder / "images").mkdir(exist_ok=True)
      (folder / "images" / file).write_text("[]")
      raise error

  def stop(error, file):
    with pytest.raises(type(error)):
      stay(error, file)
    return (tmp_path / ".data.work").exists()

  assert not stop(UserError("no title"), "000000.bin")
  assert stop(UserError("no space"), "000000.json")
  assert stop(KeyboardInterrupt(), "000001.bin")


def test_what_is_there_is_kept_for_the_same_data_only(tmp_path):
  (tmp_path / "images").mkdir()
  (tmp_path / "images/000000.json").write_text("[]")
  kept = []
  for key in (["a", 1], ["a", 1], ["a", 2]):
    (tmp_path / "report.json").write_text("{}")
    work_folder.keep_if_same(tmp_path, key)
    kept.append((tmp_path / "report.json").exists())
    (tmp_path / "images").mkdir(exist_ok=True)
  assert kept == [False, True, False]
  assert not list((tmp_path / "images").iterdir())
