import pathlib
import shutil

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import synthetic, world
from tests.data.small_world import SMALL


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  "damage",
  [
    lambda root: shutil.rmtree(root / "synthetic/users"),
    lambda root: (root / "synthetic/items/1.0.0/dataset_info.json").unlink(),
    lambda root: next(root.glob("*/users/*/*.array_record*")).unlink(),
    lambda root: _cut(next(root.glob("*/items/*/*.array_record*"))),
    lambda root: next(root.glob("*/items/*/*.array_record*")).write_bytes(b""),
  ],
)
def test_a_damaged_data_set_is_refused(dataset, tmp_path, damage):
  root = tmp_path / "copy"
  shutil.copytree(dataset.path, root)
  damage(root)
  with pytest.raises(
    UserError, match=r"no (whole )?prepared data set"
  ) as error:
    dataset_lib.load(root)
  assert len(str(error.value).splitlines()) == 1
  assert "elete" not in str(error.value)
  with pytest.raises(UserError, match="no whole prepared data set"):
    synthetic.build(root, **SMALL)


def advice(path):
  """Returns the one-line error of a path that is no data set."""
  with pytest.raises(UserError) as error:
    dataset_lib.load(path)
  with pytest.raises(UserError) as same:
    dataset_lib.fingerprint(path)
  assert str(error.value) == str(same.value)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_the_error_of_a_path_that_is_no_data_set_says_what_to_give(
  dataset, tmp_path
):
  assert "there is no such folder; give --config." in advice(tmp_path / "none")
  (tmp_path / "raw").mkdir()
  (tmp_path / "raw/ratings.csv").write_text("userId,movieId")
  assert "is a file" in advice(tmp_path / "raw/ratings.csv")
  assert "tools/prepare_data.py --raw=" in advice(tmp_path / "raw")
  root = pathlib.Path(dataset.path)
  for near in (root / "synthetic", root / "synthetic/items/1.0.0", root.parent):
    assert advice(near).endswith(f"--config.data.path={root}")


def test_a_fingerprint_is_of_contents_not_of_places(dataset, tmp_path):
  copy, other = tmp_path / "copy", tmp_path / "other"
  shutil.copytree(dataset.path, copy)
  known = dataset_lib.fingerprint(dataset.path)
  assert dataset_lib.fingerprint(copy) == known
  (copy / "import_report.json").write_text("{}")  # read by nobody
  assert dataset_lib.fingerprint(copy) == known
  synthetic.build(other, **SMALL | {"seed": 1})
  assert dataset_lib.fingerprint(other) != known
  # One byte of one user; the file's size stays.
  users = next(copy.glob("*/users/*/*.array_record*"))
  text = bytearray(users.read_bytes())
  text[len(text) // 2] ^= 1
  users.write_bytes(text)
  assert dataset_lib.fingerprint(copy) != known
  assert dataset_lib.fingerprint("") == f"synthetic{world.VERSION}"


def test_a_fingerprint_reads_pieces_of_large_files(
  dataset, tmp_path, monkeypatch
):
  monkeypatch.setattr(dataset_lib, "_PIECE_BYTES", 64)
  monkeypatch.setattr(dataset_lib, "_PIECES", 8)
  copy = tmp_path / "copy"
  shutil.copytree(dataset.path, copy)
  known = dataset_lib.fingerprint(copy)
  items = next(copy.glob("*/items/*/*.array_record*"))
  whole = items.read_bytes()

  def changed(place):
    text = bytearray(whole)
    text[place] ^= 1
    items.write_bytes(text)
    return dataset_lib.fingerprint(copy) != known

  assert changed(0)
  assert changed(-1)
  assert changed((len(whole) - 64) // 7)
  assert not changed((len(whole) - 64) // 7 - 1)  # as it says
