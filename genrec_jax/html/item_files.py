"""Files of generated items: images, titles, and a sheet of all."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from genrec_jax.html.contact_sheet import Section, contact_sheet

# File name -> how to save it, given its path.
Files = dict[str, Callable[[Path], Any]]


def item_files(
  text: str,
  titles: Sequence[str],
  history: Any,
  images: Any,
  written: Sequence[str] | None,
) -> Files:
  """Returns how to save generated images and the sheet of them all.

  With `written`, the titles of the generated images, these as well, in a file
  and in the terminal.

  Args:
    text: above the sheet.
    titles: of the history's images.
    history: [N, S, S, 3] uint8.
    images: [num, S, S, 3] uint8, generated.
    written: their titles; None: they have none.
  """
  files: Files = {
    f"{i}.png": PIL.Image.fromarray(image).save
    for i, image in enumerate(images)
  }
  sheet = contact_sheet(
    text,
    [
      Section("history, oldest first", history, titles),
      Section("generated", images, written or list(files)),
    ],
  )
  files["sheet.png"] = sheet.save
  if written is not None:
    lines = "".join(f"{title}\n" for title in written)
    print(lines, end="")
    files["titles.txt"] = lambda path: path.write_text(lines, "utf-8")
  return files
