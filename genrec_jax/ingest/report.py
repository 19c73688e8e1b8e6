"""What an import kept and dropped: a table, a JSON file and a page.

Values go through `html.escape` wherever they enter the page.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
import io
import json
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from genrec_jax.core import files
from genrec_jax.html import render
from genrec_jax.ingest import drops, job

JSON, HTML = "import_report.json", "import_report.html"
_TEMPLATE = Path(__file__).with_name("report_template.html")
_PICTURES, _SIDE = 24, 160  # of the grid; pixels
_BUCKETS = (
  ("rows", "Interactions", drops.ROWS),
  ("titles", "Titles", drops.TITLES),
  ("images", "Image files", drops.FILES),
)
_LENGTH_BARS = 12


def write(folder: Path, work: job.Work) -> None:
  """Writes import_report.json and import_report.html into a folder."""
  report = work.report
  files.write(str(folder / JSON), json.dumps(report, indent=2) + "\n")
  number = report["items"]
  rows = sorted({n * number // _PICTURES for n in range(_PICTURES)})
  text = page(report, work.settings, work.items_at(rows))
  files.write(str(folder / HTML), text)


def table(report: Mapping[str, Any]) -> str:
  """Returns the counts as text, a line per bucket."""
  lines = []
  for part, name, reasons in _BUCKETS:
    counts = report[part]
    lines.append(_line(f"{name} read", counts["read"]))
    for reason, number in counts["dropped"].items():
      lines.append(_line(f"  {_words(reason)}", -number, reasons[reason]))
    lines.append(_line("  kept", counts["kept"]))
  for name in ("users", "items", "events"):
    lines.append(_line(name.capitalize(), report[name]))
  for split, number in report["windows"].items():
    lines.append(_line(f"{split.capitalize()} windows", number))
  share = f"{report['tied_share']:.1%} of neighbours; ordered by item id"
  lines.append(_line("Events at equal times", report["gaps"]["tied"], share))
  number = report["users_of_one_day"]
  lines.append(_line("Users of one day", number, "all within 24 hours"))
  for name, time in report.get("times", {}).items():  # not of older reports
    lines.append(f"{f'{name.capitalize()} event':<24}{time[:10]:>12}  {time}")
  if crop := report.get("crop"):  # nor this
    lines.append(_line("Images cropped", crop["cropped"], _cropped(crop)))
    for share, number in crop["shares"].items():
      if number:
        lines.append(_line(f"  {share}", number))
  return "\n".join(lines)


def page(
  report: Mapping[str, Any],
  settings: Mapping[str, Any],
  items: Sequence[job.Item],
) -> str:
  """Returns the page.

  Args:
    report: see `prepared.Work.report`.
    settings: what the import was asked for, see `prepared.settings`.
    items: examples to show.
  """
  lengths = {int(n): users for n, users in report["history_lengths"].items()}
  return Template(_TEMPLATE.read_text()).substitute(
    style=render.read(),
    title=escape(f"Import of {settings['dataset']}"),
    stamp=escape(
      " · ".join(
        f"{name} ({_bytes(size)})" for name, size in settings["raw"].items()
      )
      + f" · {settings['images'][0]:,} images"
      f" ({_bytes(settings['images'][1])})"
    ),
    lead=_lead(report) + "".join(map(_warning, report.get("warnings", ()))),
    facts=_facts(report, settings),
    buckets="".join(
      _bucket(name, report[part], reasons) for part, name, reasons in _BUCKETS
    ),
    lengths=_figure("Users by length of history", _binned(lengths), "users"),
    gaps=_figure(
      "Time since the user's event before",
      [
        _gap(place, number)
        for place, number in enumerate(report["gaps"].items())
      ],
      "events",
    ),
    times=(
      f"{report['tied_share']:.1%} of neighbouring events of a user have the "
      "same time; item ids order them. All of their events lie within 24 hours "
      f"for {report['users_of_one_day']:,} of {report['users']:,} users."
      + _range(report.get("times"))
    ),
    items="".join(map(_picture, items)),
    offenders=_offenders(report["offenders"]),
  )


def _words(reason):
  return "k-core" if reason == "k_core" else reason.replace("_", " ")


def _line(name, number, note=""):
  return f"{name:<24}{number:>12,}  {note}".rstrip()


def _cropped(crop):
  """Says what the crop to centre squares takes of the kept items' images."""
  return (
    f"of {crop['images']:,}; mean loss {crop['mean_share']:.1%} of the area"
  )


def _lead(report):
  rows, images = report["rows"], report["images"]
  return (
    f"<b>{rows['kept']:,} of {rows['read']:,} interactions</b> and "
    f"<b>{images['kept']:,} of {images['read']:,} image files</b> were kept. "
    "Everything read is in exactly one line of the tables."
  )


def _warning(text):
  return f"<br><b>Warning</b>: {escape(text)}"


def _range(times):
  if not times:  # of a report that is older
    return ""
  return (
    f" Events are from {escape(times['first'])} to {escape(times['last'])}."
  )


def _facts(report, settings):
  rating = settings["min_rating"]
  facts = {
    "users": f"{report['users']:,}",
    "items": f"{report['items']:,}",
    "events": f"{report['events']:,}",
    **{
      f"{split} windows": f"{number:,}"
      for split, number in report["windows"].items()
    },
    "least rating": "any" if rating is None else f"{rating:g}",
    "k-core": str(settings["k_core"]),
    "future horizon": str(settings["future_horizon"]),
    "image size": f"{settings['image_size']} pixels",
  }
  if crop := report.get("crop"):
    facts["cropped"] = f"{crop['cropped']:,} {_cropped(crop)}"
  items = "".join(
    f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    for name, value in facts.items()
  )
  return f'<dl class="facts">{items}</dl>'


def _bucket(name, counts, reasons):
  """Returns the table of one kind of things read."""
  read = max(counts["read"], 1)

  def row(label, number, note="", kind=""):
    share = number / read
    return (
      f'<tr class="{kind}"><th scope="row">{escape(label)}'
      f"<small>{escape(note)}</small></th><td>{number:,}</td>"
      f"<td>{_share(share)}</td>"
      f'<td class="bar"><i style="width:{100 * share:.2f}%"></i></td></tr>'
    )

  lines = [row("kept", counts["kept"], kind="kept")]
  lines += [
    row(_words(reason), number, reasons[reason])
    for reason, number in counts["dropped"].items()
  ]
  lines.append(row("read", counts["read"], kind="read"))
  return (
    f'<section><h3>{escape(name)}</h3><div class="sheet"><table>'
    f"<tbody>{''.join(lines)}</tbody></table></div></section>"
  )


def _share(share):
  """Writes a share so that few of many do not look like none."""
  if 0 < share < 0.0005:
    return "&lt; 0.1 %"
  return f"{100 * share:.1f} %"


def _binned(counts):
  """Returns (label, number) of a few bins of equal ratio, shortest first."""
  longest, shortest = max(counts), min(counts)
  edges, edge = [], float(shortest)
  ratio = max((longest / shortest) ** (1 / _LENGTH_BARS), 1.0001)
  while edge <= longest:
    edges.append(round(edge))
    edge = max(edge * ratio, edge + 1)
  bars = []
  for first, after in zip(edges, [*edges[1:], longest + 1], strict=True):
    label = f"{first}" if after == first + 1 else f"{first}-{after - 1}"
    bars.append(
      (label, sum(n for size, n in counts.items() if first <= size < after))
    )
  return bars


def _gap(place, gap):
  name, number = gap
  last = place == len(drops.GAPS)
  return name if not place or last else f"< {name}", number


def _figure(title, bars, unit):
  """Draws a histogram: a bar for each (label, number)."""
  most = max(number for _, number in bars) or 1
  columns = "".join(
    f'<div class="column" title="{escape(label)}: {number:,} {unit}">'
    f"<output>{_short(number)}</output>"
    f'<i style="height:{max(110 * number / most, number > 0):.1f}px"></i>'
    f"<span>{escape(label)}</span></div>"
    for label, number in bars
  )
  return (
    f"<figure><figcaption><span>{escape(title)}</span></figcaption>"
    f'<div class="columns">{columns}</div></figure>'
  )


def _short(number):
  """Writes a count in at most four letters."""
  for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
    if number >= size:
      value = number / size
      return f"{value:.1f}{letter}" if value < 10 else f"{value:.0f}{letter}"
  return str(number)


def _bytes(size):
  for unit in ("B", "kB", "MB", "GB"):
    if size < 1000 or unit == "GB":
      return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"
    size /= 1000


def _picture(item):
  with Image.open(io.BytesIO(item.image)) as image:
    tiny = " tiny" if max(image.size) < _SIDE // 2 else ""
    data = item.image
    if max(image.size) > _SIDE:
      image.thumbnail((_SIDE, _SIDE))
      small = io.BytesIO()
      image.save(small, "JPEG", quality=85)
      data = small.getvalue()
  source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
  return (
    f'<div class="picture{tiny}"><img src="{source}" alt="">'
    f"<b>{escape(item.id)}</b><span>{escape(item.title)}</span></div>"
  )


def _offenders(offenders):
  """Returns the first things dropped, by reason."""
  meanings = {
    reason: (name, meaning)
    for _, name, reasons in _BUCKETS
    for reason, meaning in reasons.items()
  }
  return "".join(
    f"<article><header>{escape(_words(reason))}"
    f"<span>{escape(meanings[reason][0])}: {escape(meanings[reason][1])}"
    f"</span></header><ul>"
    + "".join(f"<li><code>{escape(text)}</code></li>" for text in texts)
    + "</ul></article>"
    for reason, texts in offenders.items()
  )
