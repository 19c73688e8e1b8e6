"""The import report: counts of kept and dropped, as text, JSON and a page."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from genrec_jax.core import files
from genrec_jax.ingest import reasons, report_page
from genrec_jax.ingest.work_folder import Work

JSON, HTML = "import_report.json", "import_report.html"
_NUM_ITEMS = 24  # shown on the page


def write(folder: Path, work: Work) -> None:
  """Writes import_report.json and import_report.html into a folder."""
  report = work.report
  files.write(folder / JSON, json.dumps(report, indent=2) + "\n")
  # Evenly over the ids, so that a look at them shows what all look like.
  number = report["items"]
  rows = sorted({n * number // _NUM_ITEMS for n in range(_NUM_ITEMS)})
  page = report_page.page(report, work.settings, work.items_at(rows))
  files.write(folder / HTML, page)


def table(report: Mapping[str, Any]) -> str:
  """Returns the counts as text, a line per reason, at most 80 letters wide."""
  lines = []
  for bucket in reasons.buckets(report):
    lines.append(_line(f"{bucket.name} read", bucket.read))
    for reason, number, meaning in bucket.dropped:
      lines.append(_line(f"  {reason}", -number, meaning))
    lines.append(_line("  kept", bucket.kept))
  for name in ("users", "items", "events"):
    lines.append(_line(name.capitalize(), report[name]))
  for split, number in report["windows"].items():
    lines.append(_line(f"{split.capitalize()} windows", number))
  share = f"{report['tied_share']:.1%} of neighbours; ordered by item id"
  lines.append(_line("Events at equal times", report["gaps"]["tied"], share))
  number = report["users_of_one_day"]
  lines.append(_line("Users of one day", number, "all within 24 hours"))
  # Reports of earlier versions have neither times nor crops.
  for name, time in report.get("times", {}).items():
    lines.append(f"{f'{name.capitalize()} event':<24}{time[:10]:>12}  {time}")
  if crop := report.get("crop"):
    note = report_page.crop_words(crop)
    lines.append(_line("Images cropped", crop["cropped"], note))
    for share, number in crop["shares"].items():
      if number:
        lines.append(_line(f"  {share}", number))
  return "\n".join(lines)


def _line(name, number, note=""):
  return f"{name:<24}{number:>12,}  {note}".rstrip()
