"""Checks of `config.eval.judges`, before anything is opened."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf import locate
from genrec_jax.hf.encoders import CLIP_NAME, name_of


def problems(paths: Any, clip: str) -> list[str]:
  """Returns what is wrong with the judges of a config, a line each.

  Names on the hub are not looked up: that takes the network.

  Args:
    paths: `eval.judges`.
    clip: `clip.checkpoint`, which rewards.
  """
  if not isinstance(paths, tuple) or not all(
    isinstance(path, str) and path for path in paths
  ):
    return [
      f"eval.judges is {paths!r}: expected a tuple of folders in HF format,"
      " such as ('DIR',), or () for none"
    ]
  found = [*_absent(paths), *_not_independent(paths, clip)]
  names = Counter(map(name_of, paths))
  found += [
    f"eval.judges: {names[name]} judges are called {name!r}, and their metrics"
    " would be, too; rename the folders"
    for name in names
    if names[name] > 1
  ]
  found += [
    f"eval.judges: a judge may not be called {name!r}, as its metrics would be"
    f" {'those of clip.checkpoint' if name else 'nameless'}; rename its folder"
    for name in names
    if name in ("", CLIP_NAME)
  ]
  return found


def _absent(paths: Sequence[str]) -> list[str]:
  found = []
  for path in paths:
    try:
      if not locate.is_name(path) or Path(path).exists():
        locate.resolve(path)
    except UserError as error:
      found.append(f"eval.judges: {error}")
  return found


def _not_independent(paths: Sequence[str], clip: str) -> list[str]:
  # A folder by whatever path it is reached, a bundled name or one of the hub.
  reward = Path(clip).resolve() if Path(clip).is_dir() else clip
  return [
    f"eval.judges: {path} is clip.checkpoint, which rewards and is in the table"
    " already; a judge must be another encoder, such as facebook/dinov2-base"
    for path in paths
    if (Path(path).resolve() if Path(path).is_dir() else path) == reward
  ]
