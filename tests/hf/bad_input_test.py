"""Checkpoints that cannot be used: one error that names file and remedy."""

import json
import shutil

import ml_dtypes  # noqa: F401  (numpy reads bfloat16 with it)
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrec_jax.core.errors import UserError
from genrec_jax.hf import load
from genrec_jax.hf.export import export_checkpoint
from tests.hf import tiny_janus

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  tiny_janus.save(folder, max_shard_size="200KB")
  assert len(list(folder.glob("*.safetensors"))) > 2
  return folder


def shard(folder):
  """Returns the one with most tensors."""
  files = sorted(folder.glob("*.safetensors"))
  return max(files, key=lambda file: len(load_file(file)))


def rewrite(folder, change):
  """Changes the tensors of a shard, and the index with them."""
  file = shard(folder)
  tensors = load_file(file)
  change(tensors)
  save_file(tensors, file, {"format": "pt"})
  weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
  kept = {k: v for k, v in weight_map.items() if v != file.name}
  kept |= dict.fromkeys(tensors, file.name)
  tiny_janus.edit(folder / INDEX, weight_map=kept)


def unknown_type(folder):
  tiny_janus.edit(folder / "config.json", model_type="chameleon")
  return "config.json has model_type 'chameleon'; expected 'janus'"


def no_type(folder):
  tiny_janus.edit(folder / "config.json", model_type=None)
  return "config.json has model_type None; expected 'janus'"


def missing_shard(folder):
  file = shard(folder)
  file.unlink()
  return f"{file.name} is missing", "get it again"


def absent_tensors(folder):
  weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
  more = dict.fromkeys(["ghost.weight", "ghost.bias"], shard(folder).name)
  tiny_janus.edit(folder / INDEX, weight_map=weight_map | more)
  name = shard(folder).name
  return f"{name} lacks ghost.bias", f"{name} lacks ghost.weight", "again"


def truncated(folder):
  file = shard(folder)
  file.write_bytes(file.read_bytes()[:-7])
  return f"{file.name} (", "is truncated", "get it again"


def misshapen_and_extra(folder):
  names = []

  def change(tensors):
    names.extend(sorted(tensors)[:2])
    tensors[names[0]] = np.zeros((3, 1, 2), np.float32)
    tensors[names[1]] = np.zeros(tensors[names[1]].shape, np.int32)
    tensors["extra.one"] = np.zeros(2, np.float32)
    tensors["extra.two"] = np.zeros(5, np.float32)

  rewrite(folder, change)
  return (
    f"{names[0]}: expected [",
    "found [3, 1, 2]",
    f"{names[1]}: expected a float, found int32",
    "extra.one: unexpected, [2]",
    "extra.two: unexpected, [5]",
    "use the config.json that belongs to them",
  )


def missing_tensors(folder):
  names = []

  def change(tensors):
    names.extend(sorted(tensors)[:2])
    for name in names:
      del tensors[name]

  rewrite(folder, change)
  return f"{names[0]}: missing", f"{names[1]}: missing"


def pickled(name):
  def damage(folder):
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
      path.unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    return f"{name}: refused, reading a pickle", "save_pretrained"

  return damage


def no_image_tokens(folder):
  tokens = ("<image_placeholder>", "<begin_of_image>", "<end_of_image>")
  text = (folder / "tokenizer.json").read_text()
  for i, token in enumerate(tokens):
    text = text.replace(token, f"word{i}")
  (folder / "tokenizer.json").write_text(text)
  tiny_janus.edit(
    folder / "tokenizer_config.json",
    image_token=None,
    boi_token=None,
    eoi_token=None,
  )
  return (
    *(f"no token {token!r}" for token in tokens),
    "take the tokenizer files of a Janus checkpoint",
  )


def no_tokenizer(folder):
  (folder / "tokenizer.json").unlink()
  return (
    "cannot read the tokenizer in",
    "whole files of a tokenizer",
  )


def damaged_tokenizer(folder):
  (folder / "tokenizer.json").write_text('{"model": 1}')
  return (
    "cannot read the tokenizer in",
    "whole files of a tokenizer",
  )


def no_image_settings(folder):
  for path in folder.glob("*processor_config.json"):
    path.unlink()
  return "neither preprocessor_config.json nor an image processor in"


@pytest.mark.parametrize(
  "damage",
  [
    unknown_type,
    no_type,
    missing_shard,
    absent_tensors,
    truncated,
    misshapen_and_extra,
    missing_tensors,
    pytest.param(pickled("pytorch_model.bin"), id="bin"),
    pytest.param(pickled("model.pt"), id="pt"),
    no_image_tokens,
    no_tokenizer,
    damaged_tokenizer,
    no_image_settings,
  ],
)
def test_all_that_is_wrong_is_named_at_once(whole, tmp_path, damage):
  folder = tmp_path / "model"
  shutil.copytree(whole, folder)
  parts = damage(folder)
  with pytest.raises(UserError) as error:
    load.open_generator(folder, dtype="float32")
  message = str(error.value)
  for part in (parts,) if isinstance(parts, str) else parts:
    assert part in message
  assert str(folder) in message
  assert len(message.splitlines()) <= 7


def test_an_export_that_cannot_read_its_source_leaves_nothing(whole, tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(whole, folder)
  opened = load.open_generator(folder, dtype="float32")
  shard(folder).unlink()
  with pytest.raises(UserError, match=r"cannot read .*safetensors: .*again"):
    export_checkpoint(tmp_path / "out", opened)
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
