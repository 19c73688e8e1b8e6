"""Folder of a checkpoint: a path, a bundled model, or a name on the hub."""

import functools
import os
from pathlib import Path
import re

import huggingface_hub

from genrec_jax.core.errors import UserError

ASSETS = Path(__file__).parents[1] / "assets"
# owner/name, as on the hub.
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Weights as safetensors, never pickles, and what belongs to them.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def is_name(path: str | os.PathLike[str]) -> bool:
  """Returns whether an absent path may be a name on the hub, 'owner/name'.

  It is not where there is a folder `owner`: then the path is mistyped.
  """
  return bool(_NAME.fullmatch(str(path))) and not Path(path).parent.exists()


# A run asks for a folder several times, the hub once.
@functools.cache
def download(name: str) -> Path:
  """Returns the folder of a model on the hub, from the cache if it is there.

  Raises:
    UserError: it is not in the cache, and the hub cannot be asked or refuses.
  """
  try:
    return Path(huggingface_hub.snapshot_download(name, allow_patterns=_FILES))
  except Exception as error:  # of the network, the disk and the hub
    why = " ".join(str(error).split())
    raise UserError(
      f"there is no folder {name!r}, and as a name on the hub it gives no model"
      f" ({why}): expected a folder in HF format, a workdir of a run, or a name"
      " such as deepseek-community/Janus-Pro-1B and a network"
    ) from None


def resolve(path: str | os.PathLike[str]) -> Path:
  """Returns the folder of a path, a bundled asset's name or a hub name.

  Raises:
    UserError: there is neither.
  """
  folder = Path(path)
  # A folder goes before a bundled model of the same name.
  if folder.is_dir():
    return folder
  if (ASSETS / folder.name).is_dir() and str(path) == folder.name:
    return ASSETS / folder.name
  if folder.is_file():  # a path that is nearly right gets the exact reason
    raise UserError(
      f"{path} is a file: expected the folder of a model with config.json and"
      " .safetensors files; .bin and .pt files are pickles, which can run code"
      " and are never read"
    )
  if is_name(path):
    return download(str(path))
  names = sorted(p.name for p in ASSETS.glob("*") if p.is_dir())
  raise UserError(
    f"no model at {str(path)!r}: expected a folder in HF format, a workdir of"
    f" a run, or one of the bundled {', '.join(names)}"
  )


def is_bundled(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is, or names, one of the bundled tiny models."""
  folder = Path(path)
  if not folder.is_dir():
    return folder.name == str(path) and (ASSETS / folder.name).is_dir()
  return folder.resolve().parent == ASSETS.resolve()
