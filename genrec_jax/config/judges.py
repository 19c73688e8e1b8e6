"""Checks of a config's `eval.judges` and `eval.quality`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf import locate
from genrec_jax.hf.encoders import CLIP_NAME, QUALITY_PREFIX, name_of


def problems(
  paths: Any, clip: str, rewarding: Mapping[str, str] | None = None
) -> list[str]:
  """Returns what is wrong with the judges of a config, a line each.

  Names on the hub are not looked up: that takes the network.

  Args:
    paths: `eval.judges`.
    clip: `clip.checkpoint`, which rewards.
    rewarding: other encoders that reward, {folder: its key in the config}.
  """
  if not is_paths(paths):  # nothing else could be said of it
    return [
      f"eval.judges is {paths!r}: expected a tuple of folders in HF format,"
      " such as ('DIR',), or () for none"
    ]
  found = [*absent("eval.judges", *paths), *_not_independent(paths, clip)]
  found += [
    f"eval.judges: {path} is {key}, which rewards; a judge must be another"
    " encoder"
    for path in paths
    for other, key in (rewarding or {}).items()
    if same_folder(path, other)
  ]
  # A folder's own name is in the names of its columns.
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
  found += [
    f"eval.judges: a judge may not be called {name!r}, which names a rater of"
    " eval.quality; rename its folder"
    for name in names
    if name.startswith(QUALITY_PREFIX)
  ]
  return found


def is_paths(paths: Any) -> bool:
  """Returns whether a value of a config is a tuple of paths."""
  return isinstance(paths, tuple) and all(
    isinstance(path, str) and path for path in paths
  )


def absent(key: str, *paths: str) -> list[str]:
  """Returns which folders of a key are not there, a line each."""
  found = []
  for path in paths:
    try:  # a name on the hub is no folder, and may still be one
      if not locate.is_name(path) or Path(path).exists():
        locate.resolve(path)
    except UserError as error:
      found.append(f"{key}: {error}")
  return found


def _not_independent(paths: Sequence[str], clip: str) -> list[str]:
  return [
    f"eval.judges: {path} is clip.checkpoint, which rewards and is in the table"
    " already; a judge must be another encoder, such as facebook/dinov2-base"
    for path in paths
    if same_folder(path, clip)
  ]


def same_folder(path: str, other: str) -> bool:
  """Returns whether two folders, bundled names or names of the hub are one."""
  # A folder by whatever path it is reached.
  one, two = (
    Path(x).resolve() if Path(x).is_dir() else x for x in (path, other)
  )
  return one == two
