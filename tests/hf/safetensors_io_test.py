import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from genrec_jax.core.errors import UserError
from genrec_jax.hf import safetensors_io as io

CONFIG = {"model_type": "test", "width": 3}


def _tensors():
  rng = np.random.default_rng(0)
  return {
    "a.weight": rng.normal(size=(4, 6)).astype(np.float32),
    "b.weight": rng.normal(size=(5, 4)).astype(np.float32).T,  # not contiguous
    "c": np.float32(1.5).reshape(()),
    "d.weight": rng.normal(size=(4, 6)).astype(ml_dtypes.bfloat16),
  }


def _same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].shape == value.shape
    assert found[name].dtype == value.dtype
    assert np.asarray(found[name]).tobytes() == value.tobytes()


@pytest.fixture
def single(tmp_path):
  io.write(tmp_path / "model", CONFIG, _tensors())
  return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
  io.write(tmp_path / "sharded", CONFIG, _tensors(), max_shard_bytes=100)
  return tmp_path / "sharded"


def test_single_file(single):
  assert sorted(os.listdir(single)) == ["config.json", "model.safetensors"]
  assert io.read_config(single) == CONFIG
  _same(io.open_tensors(single), _tensors())


def test_shards(sharded):
  index = json.loads((sharded / "model.safetensors.index.json").read_text())
  shards = sorted(set(index["weight_map"].values()))
  assert shards == [f"model-{i:05d}-of-00003.safetensors" for i in range(1, 4)]
  assert index["metadata"]["total_size"] == 4 * (24 + 20 + 1) + 2 * 24
  for shard in shards:  # 100 bytes, or one tensor that is larger
    held = load_file(sharded / shard)
    assert len(held) == 1 or sum(v.nbytes for v in held.values()) <= 100
  _same(io.open_tensors(sharded), _tensors())


def test_dtype_on_writing(tmp_path):
  io.write(tmp_path / "m", CONFIG, _tensors(), dtype="bfloat16")
  expected = {k: v.astype(ml_dtypes.bfloat16) for k, v in _tensors().items()}
  _same(io.open_tensors(tmp_path / "m"), expected)


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
  io.write(tmp_path / "m", CONFIG, _tensors(), source=source)
  assert sorted(os.listdir(tmp_path / "m")) == sorted(
    (*kept, "config.json", "model.safetensors")
  )
  for name in kept:
    assert (tmp_path / "m" / name).read_text() == name
  _same(io.open_tensors(tmp_path / "m"), _tensors())
  assert io.read_config(tmp_path / "m") == CONFIG


def test_a_folder_in_use_is_not_touched(single):
  before = (single / "model.safetensors").read_bytes()
  with pytest.raises(UserError, match="not an empty folder"):
    io.write(single, {}, {})
  assert (single / "model.safetensors").read_bytes() == before


def test_an_empty_folder_is_used(tmp_path):
  (tmp_path / "m").mkdir()
  io.write(tmp_path / "m", CONFIG, _tensors())
  assert io.read_config(tmp_path / "m") == CONFIG


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(io.os, "fsync", full)
  with pytest.raises(UserError, match=r"cannot write .*No space left"):
    io.write(tmp_path / "m", CONFIG, _tensors())
  assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_before_writing(tmp_path):
  huge = np.broadcast_to(np.float32(0), (10**9, 10**7))
  with pytest.raises(UserError, match=r"take 40000000\.0 GB and the disk of"):
    io.write(tmp_path / "m", CONFIG, {"a": huge})
  assert os.listdir(tmp_path) == []


def test_a_killed_write_leaves_nothing_that_looks_complete(tmp_path):
  seen = []

  class Tensor:
    shape, dtype = (2,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
      seen.append(sorted(path.name for path in tmp_path.rglob("*")))
      return np.zeros(2, np.float32)

  io.write(tmp_path / "m", CONFIG, {"a": Tensor(), "b": Tensor()})
  assert len(seen) == 2
  for names in seen:
    assert "m" not in names
    assert "config.json" not in names


def test_slices(single):
  expected = _tensors()["b.weight"]
  tensor = io.open_tensors(single)["b.weight"]
  np.testing.assert_array_equal(tensor[1:3, 2:], expected[1:3, 2:])
  np.testing.assert_array_equal(tensor[3], expected[3])
  assert tensor[4:].shape == (0, 5)


def test_what_is_written_is_a_file_of_safetensors(single):
  found = load_file(single / "model.safetensors")
  _same(found, _tensors())
  with safetensors.safe_open(single / "model.safetensors", "np") as file:
    assert file.metadata() == {"format": "pt"}


def test_a_parent_that_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    io.write(tmp_path / "file" / "m", CONFIG, _tensors())


@pytest.mark.parametrize("read", [io.read_config, io.open_tensors])
def test_no_folder(tmp_path, read):
  with pytest.raises(UserError, match="does not exist; expected the folder"):
    read(tmp_path / "absent")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "no config.json in"),
    ('{"a": ', "cannot read"),
    ("[1]", "holds no JSON object"),
  ],
)
def test_bad_config(tmp_path, text, message):
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=message):
    io.read_config(tmp_path)


def test_empty_folder(tmp_path):
  with pytest.raises(UserError, match=r"no model\.safetensors and no"):
    io.open_tensors(tmp_path)


@pytest.mark.parametrize(
  "name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "x.pkl"]
)
def test_pickle_is_refused(tmp_path, name):
  (tmp_path / name).write_bytes(b"\x80\x04.")
  with pytest.raises(UserError, match=f"{name}: refused, reading a pickle"):
    io.open_tensors(tmp_path)
  with pytest.raises(UserError, match="refused, reading a pickle"):
    io.open_tensors(tmp_path / name)


def test_a_pickle_beside_safetensors_is_not_read(single):
  (single / "pytorch_model.bin").write_bytes(b"nonsense")
  _same(io.open_tensors(single), _tensors())


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated(single, keep):
  path = single / "model.safetensors"
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError, match=r"model\.safetensors \(\d+ bytes\) is "):
    io.open_tensors(single)


def test_a_pointer_instead_of_a_file(single):
  pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
  (single / "model.safetensors").write_text(pointer)
  with pytest.raises(UserError, match="no safetensors file"):
    io.open_tensors(single)


def test_shards_without_their_index(sharded):
  (sharded / "model.safetensors.index.json").unlink()
  with pytest.raises(UserError, match=r"00003\.safetensors but neither"):
    io.open_tensors(sharded)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', "{"])
def test_bad_index(sharded, text):
  (sharded / "model.safetensors.index.json").write_text(text)
  with pytest.raises(UserError, match="get it again"):
    io.open_tensors(sharded)


def test_all_faults_of_shards_in_one_message(sharded):
  first, second, third = sorted(sharded.glob("*.safetensors"))
  index = sharded / "model.safetensors.index.json"
  value = json.loads(index.read_text())
  value["weight_map"]["ghost"] = first.name
  value["weight_map"]["out"] = "../evil.safetensors"
  index.write_text(json.dumps(value))
  save_file({**load_file(first), "extra": np.zeros(2, np.float32)}, first)
  second.unlink()
  third.write_bytes(third.read_bytes()[:-3])
  with pytest.raises(UserError) as error:
    io.open_tensors(sharded)
  for fault in (
    f"{first.name} lacks ghost",
    f"{first.name} has extra",
    f"{second.name} is missing; 2 tensors are in it",
    f"{third.name} (",
    "'../evil.safetensors' is no name of a shard",
  ):
    assert fault in str(error.value)


def test_one_file_counts_where_shards_are_there_too(single, sharded, tmp_path):
  # As for transformers, which looks for the one file first.
  for source in (sharded, single):
    for path in source.iterdir():
      shutil.copyfile(path, tmp_path / path.name)
  found = io.open_tensors(tmp_path)
  assert {tensor.path.name for tensor in found.values()} == {
    "model.safetensors"
  }
