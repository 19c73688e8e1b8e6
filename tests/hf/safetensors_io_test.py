import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrec_jax.core.errors import UserError
from genrec_jax.hf import safetensors_io as io
from tests.hf import saved


def test_single_file(single):
  assert sorted(os.listdir(single)) == ["config.json", "model.safetensors"]
  assert io.read_config(single) == saved.CONFIG
  saved.assert_same(io.open_tensors(single), saved.tensors())


def test_shards(sharded):
  index = json.loads((sharded / "model.safetensors.index.json").read_text())
  shards = sorted(set(index["weight_map"].values()))
  assert shards == [f"model-{i:05d}-of-00003.safetensors" for i in range(1, 4)]
  assert index["metadata"]["total_size"] == 4 * (24 + 20 + 1) + 2 * 24
  for shard in shards:  # 100 bytes, or one tensor that is larger
    held = load_file(sharded / shard)
    assert len(held) == 1 or sum(v.nbytes for v in held.values()) <= 100
  saved.assert_same(io.open_tensors(sharded), saved.tensors())


def test_slices(single):
  expected = saved.tensors()["b.weight"]
  tensor = io.open_tensors(single)["b.weight"]
  np.testing.assert_array_equal(tensor[1:3, 2:], expected[1:3, 2:])
  np.testing.assert_array_equal(tensor[3], expected[3])
  assert tensor[4:].shape == (0, 5)


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
  saved.assert_same(io.open_tensors(single), saved.tensors())


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
