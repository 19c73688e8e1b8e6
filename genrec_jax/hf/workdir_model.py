"""Workdirs as models: the newest checkpoint over the base of its run.

A workdir holds the trained parameters only, and in its config.json the name of
the checkpoint that they are laid over.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import locate, safetensors_io
from genrec_jax.runtime import checkpoint, run_config, workdir


def fingerprint(path: str | os.PathLike[str]) -> str:
  """Returns a hash of a checkpoint's weights: 16 hexadecimal digits.

  A workdir's is of its newest checkpoint and of what that is laid over.

  Raises:
    UserError: there is no checkpoint.
  """
  folder, whole = locate.resolve(path), hashlib.sha256()
  if (folder / checkpoint.FOLDER).is_dir():
    whole.update(fingerprint(base_of(folder)).encode())
    step = checkpoint.saved_step(str(folder))
    # Of the parameters: the optimizer's state changes no image.
    folder = folder / checkpoint.FOLDER / str(step) / "params"
    files = [file for file in folder.rglob("*") if file.is_file()]
  else:
    files = list(folder.glob("*.safetensors"))
  # By contents alone, so that a copy elsewhere has the same.
  for file in sorted(files):
    with open(file, "rb") as opened:
      whole.update(hashlib.file_digest(opened, "sha256").digest())
  return whole.hexdigest()[:16]


def base_of(folder: Path) -> str:
  """Returns the checkpoint that a workdir's run started from."""
  try:
    return workdir.read_config(str(folder))["model"]["checkpoint"]
  except (UserError, KeyError, TypeError):
    raise UserError(
      f"{folder} has {checkpoint.FOLDER}/ but no config.json with the"
      " model.checkpoint that its run started from; give a whole workdir"
    ) from None


def image_sizes(folder: Path) -> dict[str, int]:
  """Returns image_size and read_size of a workdir's run, where it has them."""
  model = workdir.read_config(str(folder)).get("model") or {}
  names = ("image_size", "read_size")
  return {name: model[name] for name in names if name in model}


def check_base(folder: Path) -> None:
  """Refuses a workdir whose base has other weights than it was trained from."""
  config = tree.flatten(workdir.read_config(str(folder)), sep=".")
  then = config.get(run_config.FINGERPRINT)  # None: a run of an older version
  now = then and fingerprint(base_of(folder))
  if then != now:
    raise UserError(
      f"{folder} was trained from {base_of(folder)} when that had other weights"
      f" ({run_config.FINGERPRINT} {then} then, {now} now): put those back, or"
      " train again"
    )


def sampling_settings(
  path: str | os.PathLike[str],
) -> tuple[dict[str, Any], str | None]:
  """Returns how a model's images are to be sampled: as when it was trained.

  Args:
    path: a model, see `load.open_generator`. Of a workdir config.json has them,
      of an HF-format folder generation_config.json, without an instruction.

  Returns:
    Those of 'guidance', 'temperature', 'top_k' and 'top_p' that are given, and
    the instruction after the history, or None.

  Raises:
    UserError: there is no such model, or its file is damaged.
  """
  folder = locate.resolve(path)
  names = ("guidance", "temperature", "top_k", "top_p")
  instruction, file = None, folder / "generation_config.json"
  if (folder / checkpoint.FOLDER).is_dir():
    config = workdir.read_config(str(folder))
    given = config.get("sample") or {}
    instruction = (config.get("data") or {}).get("instruction")
  else:
    # A folder without it has the defaults of whoever asks.
    given = dict(safetensors_io.read_json(file)) if file.exists() else {}
    given["guidance"] = given.get("guidance_scale")  # transformers' name
  return {k: given[k] for k in names if given.get(k) is not None}, instruction


def title_tokens(path: str | os.PathLike[str]) -> int | None:
  """Returns the most tokens of the titles that a run wrote, if it is known."""
  folder = locate.resolve(path)
  if not (folder / checkpoint.FOLDER).is_dir():
    return None
  return (workdir.read_config(str(folder)).get("model") or {}).get(
    "title_tokens"
  )
