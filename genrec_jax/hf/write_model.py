"""Writer of folders in HF format, one tensor in memory at a time."""

from collections.abc import Mapping
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

import huggingface_hub
import numpy as np

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.hf import safetensors_io

# What a tokenizer, a processor and generation settings are saved as.
_COPIED = (".json", ".txt", ".model", ".jinja")


def write(
  folder: str | os.PathLike[str],
  config: Mapping[str, Any],
  tensors: Mapping[str, Any],
  *,
  dtype: str | None = None,
  source: str | os.PathLike[str] | None = None,
  generation: Mapping[str, Any] | None = None,
  max_shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes a folder that `from_pretrained` loads, all of it or nothing.

  Args:
    folder: where to; must be absent or empty.
    config: becomes config.json.
    tensors: HF name -> array, or anything with a shape, a dtype and
      `__array__`: one is in memory at a time, in this order.
    dtype: what to store them as, e.g. 'bfloat16'; None keeps each one's.
      Integers keep theirs.
    source: a folder whose tokenizer, processor and generation settings are
      copied.
    generation: what to change of its generation_config.json.
    max_shard_bytes: more than this is split into several files.

  Raises:
    UserError: the folder is not empty or cannot be written, or the disk has
      no room.
  """
  with files.new_folder(folder) as part:
    _check_room(part, tensors, dtype)
    if source is not None:
      _copy_settings(Path(source), part)
    if generation:
      path = part / "generation_config.json"
      settings = safetensors_io.read_json(path) if path.exists() else {}
      _dump(path, {**settings, **generation})
    _save(part, tensors, dtype, max_shard_bytes)
    # Last: without it nothing takes what a killed export left for a model.
    _dump(part / safetensors_io.CONFIG, config)


def _check_room(
  folder: Path, tensors: Mapping[str, Any], dtype: str | None
) -> None:
  # Before the first of many gigabytes, not at the one that fails.
  need = sum(
    _size(tensor, _stored(tensor, dtype)) for tensor in tensors.values()
  )
  free = shutil.disk_usage(folder).free
  if need > free:
    raise UserError(
      f"the weights take {need / 1e9:.1f} GB and the disk of {folder.parent}"
      f" has {free / 1e9:.1f} GB left; make room or choose another"
    )


def _copy_settings(source: Path, target: Path) -> None:
  for path in sorted(source.iterdir()):
    # Indexes name the source's shards, and its config is written anew.
    skip = path.name == safetensors_io.CONFIG or ".index." in path.name
    if path.is_file() and path.suffix in _COPIED and not skip:
      shutil.copyfile(path, target / path.name)
  templates = source / safetensors_io.CHAT_TEMPLATES
  if templates.is_dir():
    shutil.copytree(templates, target / templates.name)


def _save(
  folder: Path,
  tensors: Mapping[str, Any],
  dtype: str | None,
  max_shard_bytes: int,
) -> None:
  """Writes one file, or several and their index."""
  dtypes = {name: _stored(tensor, dtype) for name, tensor in tensors.items()}
  split = huggingface_hub.split_state_dict_into_shards_factory(
    {name: (tensor, dtypes[name]) for name, tensor in tensors.items()},
    get_storage_size=lambda entry: _size(*entry),  # as it is written
    filename_pattern="model{suffix}.safetensors",
    max_shard_size=max_shard_bytes,
  )
  for file, names in split.filename_to_tensors.items():
    _write_file(
      folder / file, [(name, tensors[name], dtypes[name]) for name in names]
    )
  if split.is_sharded:
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    _dump(folder / safetensors_io.INDEX, index)


def _write_file(path: Path, tensors: list[tuple[str, Any, np.dtype]]) -> None:
  """Writes a safetensors file one tensor at a time.

  `safetensors.numpy.save_file` wants the whole file in memory, twice. Format:
  https://huggingface.co/docs/safetensors.
  """
  # transformers looks for the format in the metadata. A reader may want every
  # tensor to begin at a multiple of its item's size: the widest come first.
  tensors = sorted(tensors, key=lambda entry: -entry[2].itemsize)
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, tensor, dtype in tensors:
    begin, end = end, end + _size(tensor, dtype)
    header[name] = {
      "dtype": safetensors_io.NAMES[dtype],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # so that the data begin at a multiple of 8
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor, dtype in tensors:
      # Here it is read and cast; a transposed one is laid out anew.
      array = np.require(np.asarray(tensor, dtype), None, ["C"])
      file.write(array.reshape(-1).view(np.uint8).data)
    # The rename that follows must not reach the disk before the data.
    file.flush()
    os.fsync(file.fileno())


def _stored(tensor: Any, dtype: str | None) -> np.dtype:
  own = np.dtype(tensor.dtype)
  # Counters stay what they are.
  keep = dtype is None or np.issubdtype(own, np.integer)
  return own if keep else np.dtype(dtype)


def _size(tensor: Any, dtype: np.dtype) -> int:
  return math.prod(tensor.shape) * dtype.itemsize


def _dump(path: Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
