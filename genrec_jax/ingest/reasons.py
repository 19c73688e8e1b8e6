"""Reasons to drop rows, titles and image files, with words for the report."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from genrec_jax.data import images

# The keys are those of import_report.json, which others read: they stay as they
# are. Of several reasons that apply to a row, the first counts.
ROWS = {
  "malformed_row": "wrong number of fields, or unreadable",
  "missing_user": "no user id",
  "missing_item": "no item id",
  "bad_timestamp": "no number from 0 on, no date since 1970",
  "bad_rating": "no number where a rating should be",
  "low_rating": "below the least rating asked for",
  # From here on it is the event that is dropped, with all that belongs to it.
  "duplicate": "a later event of the same user and item",
  "no_title": "its item has no title",
  "no_image": "its item has no file in the images folder",
  "image_outside_folder": "its image path leaves the images folder",
  "bad_image": "its item's image cannot be used",
  "k_core": "too few events of its user or item left",
}
TITLES = {
  "malformed_title_row": "wrong number of fields, or unreadable",
  "title_without_item": "no item id",
  "empty_title": "nothing is left without HTML and spaces",
  "second_title_of_item": "an earlier row is of the same item",
  "unused_title": "its item is in no row that was kept",
}
FILES = {
  "symbolic_link": "links may lead anywhere: not followed",
  "not_a_regular_file": "a pipe, socket or device",
  "unreadable_folder": "its files cannot be listed",
  "bad_file_name": "not UTF-8",
  "file_without_item": "named like no item",
  "second_file_of_item": "the item has a larger or a listed one",
  "unused_file": "its item is in no row that was kept",
  # From here on the file was needed and opened; see `images.Unusable`.
  "empty_file": "0 bytes",
  "not_an_image": "no format that is read",
  "truncated": "ends too early",
  "damaged": "cannot be decoded",
  "too_large": "more pixels than are safe to decode",
  "too_small": f"a side of fewer than {images.MIN_SIDE} pixels",
  "unsupported_mode": "floating-point pixels",
  "unreadable_file": "cannot be opened",
}
PARTS = (  # of the report: key, name, reasons
  ("rows", "Interactions", ROWS),
  ("titles", "Titles", TITLES),
  ("images", "Image files", FILES),
)


class Bucket(NamedTuple):
  """Counts of one kind of things read, in words."""

  name: str
  read: int
  kept: int
  dropped: list[tuple[str, int, str]]  # (reason, number, meaning)


def buckets(report: Mapping[str, Any]) -> list[Bucket]:
  """Returns the counts of a report as a person reads them."""
  return [
    Bucket(
      name,
      report[part]["read"],
      report[part]["kept"],
      [
        (words(reason), number, reasons[reason])
        for reason, number in report[part]["dropped"].items()
      ],
    )
    for part, name, reasons in PARTS
  ]


def words(reason: str) -> str:
  """Returns a reason as it is shown: 'k_core' is 'k-core'."""
  return "k-core" if reason == "k_core" else reason.replace("_", " ")
