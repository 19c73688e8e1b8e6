import os
import stat

import pytest

from genrec_jax.core import files
from genrec_jax.core.errors import UserError


@pytest.mark.parametrize("content", ["grün\n", b"\0\xff"])
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path, content):
  path = tmp_path / "a.txt"
  path.write_text("old")
  files.write(str(path), content)
  found = path.read_bytes()
  assert found == (content if isinstance(content, bytes) else content.encode())
  assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_stays_as_it_was_until_the_new_one_is_whole(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with (  # noqa: PT012, the body is what fails
    pytest.raises(RuntimeError),
    files.replacing(path) as partial,
  ):
    partial.write_text("half")
    raise RuntimeError
  assert path.read_text() == "old"
  with files.replacing(path) as partial:
    partial.write_text("new")
    assert path.read_text() == "old"
  assert path.read_text() == "new"


@pytest.mark.parametrize("present", [False, True])
def test_a_folder_appears_when_it_is_whole(tmp_path, present):
  folder = tmp_path / "above" / "folder"
  if present:
    folder.mkdir(parents=True)
  with files.new_folder(folder) as part:
    (part / "a.txt").write_text("a")
    assert not os.path.exists(folder / "a.txt")
  assert os.listdir(folder) == ["a.txt"]
  assert os.listdir(folder.parent) == ["folder"]
  assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_that_fails_leaves_nothing(tmp_path):
  with (  # noqa: PT012, the body is what fails
    pytest.raises(RuntimeError),
    files.new_folder(tmp_path / "folder") as part,
  ):
    (part / "a.txt").write_text("a")
    raise RuntimeError
  assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("keep")
  folder = tmp_path / "file" / "folder"
  with (
    pytest.raises(UserError, match=f"cannot write {folder}: .*choose another"),
    files.new_folder(folder),
  ):
    pass


def test_only_an_absent_or_empty_folder_is_unused(tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").write_text("keep")
  for name in ("absent", "empty"):
    files.check_unused(tmp_path / name)
  for name in ("full", "full/file"):
    with pytest.raises(UserError, match="not an empty folder; choose"):
      files.check_unused(str(tmp_path / name))
    with pytest.raises(UserError), files.new_folder(tmp_path / name):
      pass
  assert (tmp_path / "full" / "file").read_text() == "keep"
