"""Prompts of a file: text to image without users, as a data set.

A prompt is a window without a history whose next item has the prompt as its
title, and an image where the file names one. What reads windows reads these as
well: batches, rewards and the report.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from genrec_jax.core.errors import UserError, listed
from genrec_jax.data import world
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.histories import SPLITS, Splits
from genrec_jax.data.index import Index

# The prompts that are held out: a tenth, at most `data.held_out`. A quarter of
# them is for evaluations during training.
_HELD_OUT, _VALIDATION = 10, 4
_LEAST = 4  # of different prompts: three splits, and one more to train on
_SHOWN = 5  # problems of a file, at most
GREY = 236  # of what stands where there is no image


class Line(NamedTuple):
  """A prompt of a file."""

  title: str
  image: Path | None
  metadata: Mapping[str, Any]  # all that its line holds


@dataclasses.dataclass(frozen=True)
class PromptDataset(Dataset):
  """Prompts as a data set: every user has one event and no history."""

  lines: tuple[Line, ...] = ()
  splits: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def has_images(self) -> bool:
    """Whether every prompt has an image."""
    return all(line.image is not None for line in self.lines)

  @functools.cached_property
  def of_world(self) -> bool:
    """Whether all prompts are made of the words of the synthetic world."""
    words = {word for some in world.ATTRIBUTES.values() for word in some}
    return all({*x.title.split()} <= words | {"on"} for x in self.lines)

  @functools.cached_property
  def index(self) -> Index:
    """Titles of the prompts, and the item of each user: its own."""
    titles = [line.title.encode() for line in self.lines]
    count = len(titles)
    # No user has a window but those trained on, whose one event is a target.
    cuts = np.zeros((count, len(Splits._fields)), np.int32)
    cuts[self.splits["train"], Splits._fields.index("train_end")] = 1
    return Index(
      history_starts=np.arange(count + 1, dtype=np.int64),
      item_rows=np.arange(count, dtype=np.int32),
      splits=cuts,
      title_starts=np.cumsum([0, *map(len, titles)]).astype(np.int64),
      title_bytes=np.frombuffer(b"".join(titles), np.uint8),
    )


@dataclasses.dataclass(frozen=True)
class _Items(Sequence[dict[str, Any]]):
  """Records of the prompts' items; images are read when asked for."""

  lines: tuple[Line, ...]

  def __len__(self) -> int:
    return len(self.lines)

  def __getitem__(self, row: Any) -> Any:
    line = self.lines[row]
    return {
      "id": str(row).encode(),
      "title": line.title.encode(),
      "image": line.image.read_bytes() if line.image else _grey(),
      "missing": line.image is None,
      "metadata": line.metadata,
    }


@dataclasses.dataclass(frozen=True)
class _Users(Sequence[dict[str, Any]]):
  """Records of one user for each prompt."""

  number: int

  def __len__(self) -> int:
    return self.number

  def __getitem__(self, row: Any) -> Any:
    if not 0 <= row < self.number:  # what ends a loop over a sequence
      raise IndexError(row)
    return {
      "id": f"prompt {row}".encode(),
      "items": [str(row).encode()],
      "rows": np.asarray([row]),
      "timestamps": np.zeros(1, np.int64),
      **dict.fromkeys(Splits._fields, 0),
    }


@functools.cache
def _grey() -> bytes:
  buffer = io.BytesIO()
  Image.new("RGB", (8, 8), (GREY, GREY, GREY)).save(buffer, "PNG")
  return buffer.getvalue()


def load(path: str | os.PathLike, *, held_out: int, seed: int) -> PromptDataset:
  """Opens a file of prompts.

  Args:
    path: one prompt a line; or, of *.jsonl, an object a line, with "title",
      perhaps "image", a file next to this one, and whatever an external reward
      is to know.
    held_out: prompts that are never trained on, at most; a tenth, if fewer.
    seed: of which they are. Prompts of equal titles are held out together.

  Raises:
    UserError: the file cannot be read, or lists what is wrong in it.
  """
  lines = _read(Path(path).expanduser())
  # In the file's order, so that the seed alone decides what is held out.
  different = list(dict.fromkeys(line.title for line in lines))
  if len(different) < _LEAST:
    raise UserError(
      f"data.prompts: {path} holds {len(different)} different prompts: expected"
      f" at least {_LEAST}, to train on and to evaluate"
    )
  order = np.random.default_rng(seed).permutation(len(different))
  held = min(max(len(different) // _HELD_OUT, 2), max(held_out, 2))
  watched = max(held // _VALIDATION, 1)
  names = np.full(len(different), SPLITS.index("train"))
  # The first are watched during training, the other held out ones at its end.
  names[order[:held]] = SPLITS.index("test")
  names[order[:watched]] = SPLITS.index("validation")
  place = {title: i for i, title in enumerate(different)}
  of_lines = np.asarray([names[place[line.title]] for line in lines])
  return PromptDataset(
    path=str(path),
    items=_Items(tuple(lines)),
    users=_Users(len(lines)),
    settings={},
    lines=tuple(lines),
    splits={
      name: np.flatnonzero(of_lines == i) for i, name in enumerate(SPLITS)
    },
  )


def fingerprint(path: str | os.PathLike) -> str:
  """Returns a hash of a file of prompts and of its images' sizes."""
  file = Path(path).expanduser()
  digest = hashlib.sha256()
  for line in _read(file):
    # An image's size, not its bytes, which may be gigabytes.
    size = line.image.stat().st_size if line.image else 0
    digest.update(f"{json.dumps(dict(line.metadata))} {size}\n".encode())
  return digest.hexdigest()[:16]


def _read(file: Path) -> list[Line]:
  """Returns the prompts of a file, in its order."""
  try:
    rows = file.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"data.prompts: {file} cannot be read ({error}): expected a file of UTF-8"
      " with a prompt a line, or *.jsonl with an object a line"
    ) from None
  lines, problems = [], []
  for number, row in enumerate(rows, 1):
    if not row.strip():
      continue
    found = _line(row, file) if file.suffix == ".jsonl" else row.strip()
    if isinstance(found, str) and file.suffix == ".jsonl":
      problems.append(f"line {number}: {found}")
    elif isinstance(found, str):
      lines.append(Line(found, None, {"title": found}))
    else:
      lines.append(found)
  if problems:
    more = len(problems) - _SHOWN
    rest = [f"and {more} more"] if more > 0 else []
    raise UserError(
      listed(
        f'data.prompts: {file} is wrong; expected {{"title": "a red cup"}} in'
        ' each line, perhaps with "image": "cup.png":',
        [*problems[:_SHOWN], *rest],
      )
    )
  return lines


def _line(row: str, file: Path) -> Line | str:
  """Returns a prompt of a JSONL file, or what is wrong with its line."""
  try:
    given = json.loads(row)
  except ValueError as error:
    return f"no JSON ({error})"
  if not isinstance(given, dict):
    return "no object"
  title, image = given.get("title"), given.get("image")
  if not isinstance(title, str) or not title.strip():
    return 'no "title"'
  if image is None:
    return Line(title.strip(), None, given)
  path = file.parent / str(image)
  if not path.is_file():
    return f"no image {path}"
  return Line(title.strip(), path, given)
