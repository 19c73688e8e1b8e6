"""import_report.html: what an import kept and dropped, with examples."""

import base64
from collections.abc import Mapping, Sequence
import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from genrec_jax.html import render
from genrec_jax.ingest import reasons, statistics
from genrec_jax.ingest.work_folder import Item

_TEMPLATE = Path(__file__).with_name("report.html")  # escapes all values
_SIDE = 160  # pixels of an image on the page
_LENGTH_BARS = 12


class _Bar(NamedTuple):
  """A bar of a histogram."""

  label: str
  number: int

  @property
  def short(self) -> str:
    """Returns the number in at most four letters."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
      if self.number >= size:
        value = self.number / size
        return f"{value:.1f}{letter}" if value < 10 else f"{value:.0f}{letter}"
    return str(self.number)


def page(
  report: Mapping[str, Any],
  settings: Mapping[str, Any],
  items: Sequence[Item],
) -> str:
  """Returns the page.

  Args:
    report: see `work_folder.Work.report`.
    settings: what the import was asked for, see `raw_data.settings`.
    items: examples to show.
  """
  files = [f"{name} ({_bytes(size)})" for name, size in settings["raw"].items()]
  number, size = settings["images"]
  # Keys of JSON are text.
  lengths = {int(n): users for n, users in report["history_lengths"].items()}
  return render.page(
    _TEMPLATE,
    title=f"Import of {settings['dataset']}",
    stamp=" · ".join([*files, f"{number:,} images ({_bytes(size)})"]),
    report=report,
    summary=_summary(report, settings),
    buckets=reasons.buckets(report),
    lengths=_binned(lengths),
    gaps=_gap_bars(report["gaps"]),
    items=[_shown(item) for item in items],
    examples=_examples(report),
  )


def crop_words(crop: Mapping[str, Any]) -> str:
  """Returns the loss of the kept images to their centre squares, in words."""
  return (
    f"of {crop['images']:,}; mean loss {crop['mean_share']:.1%} of the area"
  )


def _summary(report, settings):
  """Returns the few numbers and settings that a reader looks for first."""
  rating = settings["min_rating"]
  summary = {name: f"{report[name]:,}" for name in ("users", "items", "events")}
  for split, number in report["windows"].items():
    summary[f"{split} windows"] = f"{number:,}"
  summary["least rating"] = "any" if rating is None else f"{rating:g}"
  summary["k-core"] = str(settings["k_core"])
  summary["future horizon"] = str(settings["future_horizon"])
  summary["image size"] = f"{settings['image_size']} pixels"
  if crop := report.get("crop"):  # not in reports of earlier versions
    summary["cropped"] = f"{crop['cropped']:,} {crop_words(crop)}"
  return summary


def _binned(counts):
  """Returns bars of a few bins of equal ratio, shortest first."""
  longest, shortest = max(counts), min(counts)
  edges, edge = [], float(shortest)
  # Lengths spread over orders of magnitude, most of them short.
  ratio = max((longest / shortest) ** (1 / _LENGTH_BARS), 1.0001)
  while edge <= longest:
    edges.append(round(edge))
    # By at least 1: lengths are integers, and short ones lie close together.
    edge = max(edge * ratio, edge + 1)
  bars = []
  # From an edge to the next, which is not part of the bin.
  for first, after in zip(edges, [*edges[1:], longest + 1], strict=True):
    label = f"{first}" if after == first + 1 else f"{first}-{after - 1}"
    number = sum(n for length, n in counts.items() if first <= length < after)
    bars.append(_Bar(label, number))
  return bars


def _gap_bars(gaps):
  """Returns bars of the times between events.

  The first are equal times and the last are longer than all bounds.
  """
  bounds = {name for name, _ in statistics.GAPS[1:]}
  return [
    _Bar(f"< {name}" if name in bounds else name, number)
    for name, number in gaps.items()
  ]


def _shown(item):
  """Returns an item with its image as a data URL, not larger than needed."""
  data = item.image
  with Image.open(io.BytesIO(data)) as image:
    tiny = max(image.size) < _SIDE // 2  # shown in blocks, not smoothed
    # The page holds its images itself: it is sent around as one file.
    if max(image.size) > _SIDE:
      image.thumbnail((_SIDE, _SIDE))
      small = io.BytesIO()
      image.save(small, "JPEG", quality=85)  # to look at, not to keep
      data = small.getvalue()
  source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
  return {"id": item.id, "title": item.title, "tiny": tiny, "source": source}


def _examples(report):
  """Returns the first things dropped, by reason."""
  meanings = {
    reason: f"{name}: {meaning}"
    for _, name, meanings_of in reasons.PARTS
    for reason, meaning in meanings_of.items()
  }
  return [
    {
      "reason": reasons.words(reason),
      "meaning": meanings[reason],
      "texts": texts,
    }
    for reason, texts in report["offenders"].items()
  ]


def _bytes(size):
  """Returns a size in bytes with a unit, in two digits or more."""
  for unit in ("B", "kB", "MB", "GB"):
    if size < 1000 or unit == "GB":
      return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"
    size /= 1000
  raise AssertionError
