"""The report's page: nothing of the raw data becomes markup."""

import io

from PIL import Image
import pytest

from genrec_jax.ingest import reasons, report, report_page, work_folder

EVIL = "<script>alert('x\"')</script>"
SETTINGS = {
  "dataset": EVIL,
  "min_rating": None,
  "k_core": 5,
  "future_horizon": 1,
  "image_size": 32,
  "raw": {EVIL: 1_500, "a.csv": 12},
  "images": [1234, 5_000_000_000],
}
REPORT = {
  "rows": {
    "read": 3000,
    "kept": 2998,
    "dropped": {"bad_rating": 1, "k_core": 1},
  },
  "titles": {"read": 2, "kept": 2, "dropped": {}},
  "images": {"read": 0, "kept": 0, "dropped": {}},
  "users": 3,
  "items": 2,
  "events": 2998,
  "windows": {"train": 1, "validation": 2, "test": 3},
  "offenders": {"bad_rating": [EVIL]},
  "history_lengths": {"1": 2, "40": 1},
  "gaps": {"tied": 0, "a minute": 12_345, "longer": 1},
  "tied_share": 0.25,
  "users_of_one_day": 1,
  "warnings": [EVIL],
}


def _item(side):
  data = io.BytesIO()
  Image.new("RGB", (side, side)).save(data, "JPEG")
  return work_folder.Item(EVIL, EVIL, data.getvalue())


@pytest.fixture(scope="module")
def page():
  return report_page.page(REPORT, SETTINGS, [_item(32), _item(1600)])


def test_every_value_is_escaped(page):
  assert "<script" not in page
  # Title and heading, file, warning, example, and twice each of two items.
  assert page.count("&lt;script&gt;") == 9


def test_counts_are_shown_with_their_shares(page):
  text = " ".join(page.split())
  assert (
    "<b>2,998 of 3,000 interactions</b> and <b>0 of 0 image files</b>" in text
  )
  # Few of many are not none.
  assert text.count("<td>&lt; 0.1 %</td>") == 2
  assert "<td>0.0 %</td>" in text
  assert 'title="&lt; a minute: 12,345 events"> <output>12k</output>' in text
  assert "<dt>least rating</dt><dd>any</dd>" in text
  assert "a.csv (12 B) · 1,234 images (5.0 GB)" in text
  assert "(1.5 kB)" in text


def test_large_images_are_shrunk_and_small_ones_shown_in_blocks(page):
  small = len(_item(32).image)
  assert page.count('<div class="image tiny">') == 1
  assert page.count('<div class="image">') == 1
  # An image of 160 pixels and one colour, not of 1600.
  assert len(page) < len(report_page.page(REPORT, SETTINGS, [])) + 8 * small


def test_reports_of_earlier_versions_are_shown(page):
  assert "Events are from" not in page  # REPORT has no times and no crops
  newer = REPORT | {
    "times": {"first": "2001-02-03T04:05:06Z", "last": "2002"},
    "crop": {"images": 2, "cropped": 1, "mean_share": 0.1, "shares": {"x": 1}},
  }
  text = " ".join(report_page.page(newer, SETTINGS, []).split())
  assert "Events are from 2001-02-03T04:05:06Z to 2002." in text
  assert "<dt>cropped</dt><dd>1 of 2; mean loss 10.0% of the area</dd>" in text
  lines = report.table(newer).splitlines()
  assert "First event               2001-02-03  2001-02-03T04:05:06Z" in lines
  assert len(lines) > len(report.table(REPORT).splitlines())


def test_histories_of_any_lengths_have_bars():
  for lengths in ({1: 3}, {7: 1, 8: 2}, dict.fromkeys(range(1, 500), 1)):
    bars = report_page._binned(lengths)
    assert sum(bar.number for bar in bars) == sum(lengths.values())
    assert len(bars) <= 15


def test_every_reason_has_words():
  assert reasons.words("k_core") == "k-core"
  assert reasons.words("bad_rating") == "bad rating"
  (rows, titles, files) = reasons.buckets(REPORT)
  assert rows.dropped[0] == ("bad rating", 1, reasons.ROWS["bad_rating"])
  assert (titles.read, files.dropped) == (2, [])
