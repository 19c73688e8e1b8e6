"""Files of a run, all of them or none."""

from collections.abc import Mapping, Sequence
import contextlib
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
import PIL.Image


def contact_sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Returns rows of images, uint8 [n, S, S, 3] each, as one image on white.

  Rows may differ in S.
  """
  size, most = max(row.shape[1] for row in rows), max(map(len, rows))
  # [row, pixel row, image, pixel column, 3], which reshapes to one image.
  sheet = np.full((len(rows), size, most, size, 3), 255, np.uint8)
  for place, row in zip(sheet, rows, strict=True):
    side = row.shape[1]
    place[:side, : len(row), :side] = row.swapaxes(0, 1)
  return sheet.reshape(len(rows) * size, most * size, 3)


def save(folders: Mapping[Path, Mapping[str, Any]]) -> None:
  """Writes {folder: {file name: image, array or text}}, all of it or nothing.

  Folders appear when all is written; one may lie in another.

  Raises:
    OSError: one cannot be written.
  """
  with contextlib.ExitStack() as stack:
    parts: dict[Path, Path] = {}  # folder -> where it is written
    for folder, files in folders.items():
      folder = Path(folder).resolve()
      outer = next(filter(folder.is_relative_to, parts), None)
      if outer:
        part = parts[outer] / folder.relative_to(outer)
        part.mkdir(parents=True, exist_ok=True)
      else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Next to the folder: a rename works only within one file system.
        temporary = tempfile.TemporaryDirectory(prefix=".", dir=folder.parent)
        part = Path(stack.enter_context(temporary), "part")
        part.mkdir()
        parts[folder] = part
      for name, value in files.items():
        if name.endswith(".png"):
          PIL.Image.fromarray(value).save(part / name)
        elif name.endswith(".npy"):
          np.save(part / name, value)
        else:
          (part / name).write_text(value, encoding="utf-8")
    for folder, part in parts.items():
      os.replace(part, folder)
