"""Reader of folders in HF format: config.json and safetensors, never pickle."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from genrec_jax.core.errors import UserError, listed

_SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
CHAT_TEMPLATES = "additional_chat_templates"  # a folder of those with names
_REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
# Type -> its name in safetensors.
NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class SafetensorsView:
  """Tensor on disk; `tensor[index]` and `np.asarray(tensor)` read it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  path: Path
  offset: int  # of its first byte in the file

  def __getitem__(self, index: Any) -> np.ndarray:
    """Reads a slice; only the pages that hold it are touched."""
    if not math.prod(self.shape):  # nothing cannot be mapped
      return np.empty(self.shape, self.dtype)[index]
    # Mapped for the length of this call: pages of a mapping that stays open
    # stay resident, and a process that has read all of a checkpoint from one
    # would seem to hold it, and be limited as if it did.
    bits = np.dtype(f"u{self.dtype.itemsize}")
    try:
      whole = np.memmap(self.path, bits, "r", self.offset, self.shape)
    except (OSError, ValueError) as error:
      raise UserError(
        f"cannot read {self.path}: {error}; get it again"
      ) from None
    return np.array(whole[index]).view(self.dtype)

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """Reads the values."""
    return np.asarray(self[...], dtype)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the JSON object in a file.

  Raises:
    UserError: no such file, or no JSON object in it.
  """
  path = Path(path)
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(
      f"no {path.name} in {path.parent}; expected a folder in HF format,"
      " such as `save_pretrained` writes"
    ) from None
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path}: {error}; get it again") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} holds no JSON object; get it again")
  return value


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns config.json of an HF-format folder.

  Raises:
    UserError: no folder, no config.json, or no JSON object in it.
  """
  return read_json(_folder(folder) / CONFIG)


def open_tensors(folder: str | os.PathLike[str]) -> dict[str, SafetensorsView]:
  """Opens the safetensors of a folder, one file or shards with an index.

  Shapes and dtypes are known at once; values are read when asked for. Where
  both are there, the one file counts, as for transformers.

  Raises:
    UserError: no safetensors, a pickle file instead, or shards that are
      missing, truncated or not as the index says; lists all that is wrong.
  """
  folder = _folder(folder)
  if (folder / _SINGLE).exists():
    tensors, problem = _open_file(folder / _SINGLE)
    if problem:
      raise UserError(f"{folder}: {problem}")
    return tensors
  if (folder / INDEX).exists():
    return _open_shards(folder)
  # Nothing to read. What else is there says why.
  files = sorted(path.name for path in folder.iterdir())
  pickles = [name for name in files if name.endswith(_REFUSED)]
  shards = [name for name in files if name.endswith(".safetensors")]
  if shards:
    raise UserError(
      f"{folder} has {', '.join(shards)} but neither {_SINGLE} nor {INDEX};"
      " get the folder again, whole"
    )
  if pickles:
    raise UserError(_refusal(f"{folder} has only {', '.join(pickles)}"))
  raise UserError(
    f"no {_SINGLE} and no {INDEX} in {folder}; expected a model in HF format"
  )


def _refusal(what: str) -> str:
  return (
    f"{what}: refused, reading a pickle file can run any code; load it with"
    " transformers where you trust it and `save_pretrained` it as safetensors"
  )


def _folder(path: str | os.PathLike[str]) -> Path:
  path = Path(path)
  if path.is_dir():
    return path
  if path.exists() and path.name.endswith(_REFUSED):
    raise UserError(_refusal(str(path)))
  what = "is a file" if path.exists() else "does not exist"
  raise UserError(f"{path} {what}; expected the folder of a model in HF format")


def _open_file(path: Path) -> tuple[dict[str, SafetensorsView], str]:
  """Returns the tensors of one file, or none and what is wrong with it."""
  try:
    # This checks that header, size and places of tensors agree.
    with safetensors.safe_open(path, framework="np"):
      pass
    header, start = _header(path)
  except (OSError, safetensors.SafetensorError) as error:
    return {}, (
      f"{path.name} ({path.stat().st_size} bytes) is truncated or no"
      f" safetensors file ({error}); get it again"
    )
  tensors = {}
  for name, entry in header.items():
    if entry["dtype"] not in _DTYPES:
      return {}, (
        f"{path.name}: {name} is {entry['dtype']}; expected one of"
        f" {', '.join(_DTYPES)}, not quantized"
      )
    tensors[name] = SafetensorsView(
      shape=tuple(entry["shape"]),
      dtype=np.dtype(_DTYPES[entry["dtype"]]),
      path=path,
      offset=start + entry["data_offsets"][0],
    )
  return tensors, ""


def _header(path: Path) -> tuple[dict[str, Any], int]:
  """Returns the entries of a safetensors file and where its data begin."""
  with open(path, "rb") as file:
    # https://huggingface.co/docs/safetensors: length, JSON, data.
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
  header.pop("__metadata__", None)
  return header, 8 + length


def _open_shards(folder: Path) -> dict[str, SafetensorsView]:
  """Opens the files that an index names; see `open_tensors`."""
  weight_map = read_json(folder / INDEX).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{folder / INDEX} has no weight_map; get it again")
  tensors, problems = {}, []
  for shard in sorted({str(shard) for shard in weight_map.values()}):
    named = {name for name, file in weight_map.items() if file == shard}
    # An index is from elsewhere: it must not name files outside its folder.
    if Path(shard).name != shard or not shard.endswith(".safetensors"):
      problems.append(f"{shard!r} is no name of a shard next to the index")
    elif not (folder / shard).exists():
      problems.append(f"{shard} is missing; {len(named)} tensors are in it")
    else:
      found, problem = _open_file(folder / shard)
      if problem:
        problems.append(problem)
        continue
      problems += [
        f"{shard} lacks {name}, which the index places there"
        for name in sorted(named - found.keys())
      ]
      problems += [
        f"{shard} has {name}, which the index does not place there"
        for name in sorted(found.keys() - named)
      ]
      tensors.update(found)
  if problems:
    raise UserError(
      listed(
        f"{folder} is not whole; get it again:", problems, limit=len(problems)
      )
    )
  return tensors
