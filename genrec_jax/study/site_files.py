"""The served folder of a study: page, images and tasks, which tell no rows."""

from collections.abc import Mapping, Sequence
import hashlib
import io
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from PIL import Image

from genrec_jax.core import files
from genrec_jax.html import render
from genrec_jax.study.design import Shown, Task

TINY_SIDE = 64  # pixels; up to here an image is kept, and shown, pixel by pixel
PAGE = Path(__file__).with_name("page")
# What raters' browsers run, besides index.html.
STATIC = (
  "icon.svg",
  "main.js",
  "screens.js",
  "sending.js",
  "session.js",
  "study.css",
)


def opaque(seed: int, *parts: object) -> str:
  """Returns a name that does not tell what it names."""
  text = "/".join(map(str, (seed, *parts)))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def encode_images(
  images: Mapping[Shown, np.ndarray],
) -> dict[Shown, tuple[str, bytes]]:
  """Returns names and contents of image files, which carry nothing but pixels.

  All are encoded alike, so that no row is known by its format or quality. Equal
  images are one file.

  Args:
    images: uint8 [h, w, 3].
  """
  found = {}
  for shown, image in images.items():
    data = io.BytesIO()
    tiny = max(image.shape[:2]) <= TINY_SIDE
    if tiny:
      Image.fromarray(image).save(data, "PNG", optimize=True)
    else:
      Image.fromarray(image).save(data, "JPEG", quality=95, subsampling=0)
    content = data.getvalue()
    # By content: the same pixels have the same name, whatever row shows them.
    name = hashlib.sha256(content).hexdigest()[:20]
    found[shown] = (f"images/{name}.{'png' if tiny else 'jpg'}", content)
  return found


def blocks_and_key(
  plan: Sequence[Sequence[Task]],
  names: Mapping[Shown, str],
  users: Sequence[str],
  seed: int,
) -> tuple[list[list[dict[str, str]]], dict[str, dict[str, Any]]]:
  """Returns the blocks as raters get them, and the key to them.

  A block's tasks are {"id", "history", "left", "right"}; the key is {id:
  {"block", "kind", "user", "left", "right", "known", "of"}}, where left and
  right are rows, or 'own' and 'other' in a check.

  Args:
    plan: see `design.blocks`.
    names: of the image files.
    users: names in the key.
    seed: of the ids.
  """
  blocks, key = [], {}
  for number, tasks in enumerate(plan):
    ids = [opaque(seed, "task", number, i) for i in range(len(tasks))]
    blocks.append(
      [
        {
          "id": name,
          "history": history_id(seed, task.user),
          "left": names[task.left],
          "right": names[task.right],
        }
        for name, task in zip(ids, tasks, strict=True)
      ]
    )
    for name, task in zip(ids, tasks, strict=True):
      left, right = task.left.row, task.right.row
      # Both are of histories; the key says whose.
      if task.kind == "check":
        left, right = "own", "other"
        if task.known == "right":
          left, right = right, left
      key[name] = {
        "block": number,
        "kind": task.kind,
        "user": users[task.user],
        "left": left,
        "right": right,
        "known": task.known,
        "of": ids[task.of] if task.kind == "repeat" else "",
      }
  return blocks, key


def history_id(seed: int, user: int) -> str:
  """Returns the name under which a user's history stands in the tasks."""
  return opaque(seed, "history", user)


def write(
  folder: Path,
  tasks: Mapping[str, Any],
  images: Mapping[Shown, tuple[str, bytes]],
  origin: str,
) -> None:
  """Writes the served folder.

  Args:
    folder: is made.
    tasks: what tasks.json holds.
    images: see `encode_images`.
    origin: which the page may send votes to, besides its own; or ''.
  """
  (folder / "images").mkdir(parents=True)
  for name, content in images.values():
    (folder / name).write_bytes(content)
  for name in STATIC:
    shutil.copyfile(PAGE / name, folder / name)
  connect = f"'self' {origin}".strip()
  page = render.page(PAGE / "index.html", title=tasks["title"], connect=connect)
  files.write(folder / "index.html", page)
  # The last one: a folder without tasks is no study.
  files.write(folder / "tasks.json", json.dumps(tasks, separators=(",", ":")))
