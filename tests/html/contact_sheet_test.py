"""Contact sheets: everything has room, and every letter is one of a font."""

import numpy as np

from genrec_jax.html.contact_sheet import Section, contact_sheet


def test_a_sheet_has_room_for_long_titles_and_many_images():
  images = [np.full((20, 20, 3), 10 * i, np.uint8) for i in range(9)]
  titles = ["", "w" * 200, "a b\nc", "many words " * 20, *"efghi"]
  sheet = contact_sheet(
    "generate " * 60,
    [Section("history", images, titles), Section("generated", images, titles)],
  )
  width, height = sheet.size
  assert width == 8 * (160 + 10) + 10
  assert height > 4 * 160
  pixels = np.asarray(sheet)
  for i in range(1, 9):  # each image twice, enlarged and whole
    assert (pixels == 10 * i).all(-1).sum() >= 2 * 160**2
  assert (pixels[:, -10:] == 255).all()  # nothing runs over the edge
  plain, accented, foreign = (
    np.asarray(contact_sheet(text, [Section("", images[:1], [""])]))
    for text in ("Creme: ??", "Cr\u00e8me: \ue000\ue001", "\n\U0010ffff")
  )
  assert plain.shape == accented.shape  # no letter stays a box
  assert (foreign < 128).any()
  alone = contact_sheet(
    "", [Section("none", [], []), Section("", images[:1], [""])]
  )
  assert alone.size[0] == 2 * (160 + 10) + 10
