"""Checkpoints by their names on the Hugging Face hub."""

import functools
import os
from pathlib import Path
import re

import huggingface_hub

from genrec_jax.core.errors import UserError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Weights as safetensors, never pickles, and what belongs to them.
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def is_name(path: str | os.PathLike[str]) -> bool:
  """Tells whether an absent path may be a name on the hub, 'owner/name'.

  It is not where there is a folder `owner`: then the path is mistyped.
  """
  return bool(_NAME.fullmatch(str(path))) and not Path(path).parent.exists()


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
