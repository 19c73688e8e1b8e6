import os

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from genrec_jax.core.errors import UserError
from genrec_jax.hf import safetensors_io, write_model
from tests.hf import saved


def test_dtype_on_writing(tmp_path):
  write_model.write(
    tmp_path / "m", saved.CONFIG, saved.tensors(), dtype="bfloat16"
  )
  expected = {
    k: v.astype(ml_dtypes.bfloat16) for k, v in saved.tensors().items()
  }
  saved.assert_same(safetensors_io.open_tensors(tmp_path / "m"), expected)


def test_settings_are_copied_and_weights_are_not(tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  kept = (
    "tokenizer.json",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "generation_config.json",
  )
  for name in (
    *kept,
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
  ):
    (source / name).write_text(name)
  write_model.write(
    tmp_path / "m", saved.CONFIG, saved.tensors(), source=source
  )
  assert sorted(os.listdir(tmp_path / "m")) == sorted(
    (*kept, "config.json", "model.safetensors")
  )
  for name in kept:
    assert (tmp_path / "m" / name).read_text() == name
  saved.assert_same(
    safetensors_io.open_tensors(tmp_path / "m"), saved.tensors()
  )
  assert safetensors_io.read_config(tmp_path / "m") == saved.CONFIG


def test_a_folder_in_use_is_not_touched(single):
  before = (single / "model.safetensors").read_bytes()
  with pytest.raises(UserError, match="not an empty folder"):
    write_model.write(single, {}, {})
  assert (single / "model.safetensors").read_bytes() == before


def test_an_empty_folder_is_used(tmp_path):
  (tmp_path / "m").mkdir()
  write_model.write(tmp_path / "m", saved.CONFIG, saved.tensors())
  assert safetensors_io.read_config(tmp_path / "m") == saved.CONFIG


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match=r"cannot write .*No space left"):
    write_model.write(tmp_path / "m", saved.CONFIG, saved.tensors())
  assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_before_writing(tmp_path):
  huge = np.broadcast_to(np.float32(0), (10**9, 10**7))
  with pytest.raises(UserError, match=r"take 40000000\.0 GB and the disk of"):
    write_model.write(tmp_path / "m", saved.CONFIG, {"a": huge})
  assert os.listdir(tmp_path) == []


def test_a_killed_write_leaves_nothing_that_looks_complete(tmp_path):
  seen = []

  class Tensor:
    shape, dtype = (2,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
      seen.append(sorted(path.name for path in tmp_path.rglob("*")))
      return np.zeros(2, np.float32)

  write_model.write(
    tmp_path / "m", saved.CONFIG, {"a": Tensor(), "b": Tensor()}
  )
  assert len(seen) == 2
  for names in seen:
    assert "m" not in names
    assert "config.json" not in names


def test_what_is_written_is_a_file_of_safetensors(single):
  found = load_file(single / "model.safetensors")
  saved.assert_same(found, saved.tensors())
  with safetensors.safe_open(single / "model.safetensors", "np") as file:
    assert file.metadata() == {"format": "pt"}


def test_a_parent_that_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    write_model.write(tmp_path / "file" / "m", saved.CONFIG, saved.tensors())
