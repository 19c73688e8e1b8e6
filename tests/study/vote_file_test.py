import json
import os

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.study.vote_file import VoteFile


def vote(name, **more):
  return {"id": name, **more}


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_votes_are_stored_once_whoever_sends_them(tmp_path):
  path = tmp_path / "votes.jsonl"
  file = VoteFile(path)
  assert file.add([vote("a"), vote("b"), vote("a")]) == 2
  assert file.add([vote("b"), vote("c")]) == 1
  file.close()
  again = VoteFile(path)
  assert len(again) == 3
  assert again.add([vote("c"), vote("d")]) == 1
  assert [line["id"] for line in lines(path)] == ["a", "b", "c", "d"]
  assert [found["id"] for found in again.stored] == ["a", "b", "c"]
  again.close()


def test_a_line_that_was_cut_off_stays_by_itself(tmp_path):
  path = tmp_path / "votes.jsonl"
  path.write_text('{"id": "a"}\n{"id": "b", "ta')
  file = VoteFile(path)
  assert file.add([vote("b")]) == 1
  file.close()
  assert path.read_text() == '{"id": "a"}\n{"id": "b", "ta\n{"id":"b"}\n'


def test_it_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
  file = VoteFile(tmp_path / "votes.jsonl")
  order = []
  monkeypatch.setattr(os, "fsync", lambda _: order.append(len(file)))
  file.add([vote("a")])
  assert order == [0]
  assert len(file) == 1
  file.close()


def test_a_full_disk_leaves_no_half_of_a_batch(tmp_path, monkeypatch):
  path = tmp_path / "votes.jsonl"
  file = VoteFile(path)
  file.add([vote("a")])
  write = os.write
  monkeypatch.setattr(os, "write", lambda f, data: write(f, data[:10]))
  with pytest.raises(OSError, match="full"):
    file.add([vote("b"), vote("c")])
  monkeypatch.undo()
  assert lines(path) == [vote("a")]
  assert file.add([vote("b")]) == 1
  file.close()


def test_two_processes_cannot_write_one_file(tmp_path):
  file = VoteFile(tmp_path / "votes.jsonl")
  with pytest.raises(UserError, match="in use"):
    VoteFile(tmp_path / "votes.jsonl")
  file.close()
  VoteFile(tmp_path / "votes.jsonl").close()


def test_a_folder_that_is_not_there_is_said(tmp_path):
  with pytest.raises(UserError, match="cannot write"):
    VoteFile(tmp_path / "nowhere" / "votes.jsonl")


def test_nobody_else_may_read_it(tmp_path):
  VoteFile(tmp_path / "votes.jsonl").close()
  assert (tmp_path / "votes.jsonl").stat().st_mode & 0o777 == 0o600
