"""Learning curves of report.html: charts with their lines in pixels."""

from collections.abc import Iterable, Mapping, Sequence
import functools
import json
import re
from typing import NamedTuple

import numpy as np

from genrec_jax.evals.metrics import describe, in_order
from genrec_jax.evals.scale import Scale, around
from genrec_jax.evals.summary import Summary
from genrec_jax.runtime import metric_writer

Curve = Sequence[tuple[int, float]]  # (step, value), ...

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 132, 47, 18  # of a chart, pixels
MANY = 40  # values; more are plotted pale, with their average over them
_HELD_OUT = r"^eval/"
_GROUPS = (
  ("During training", rf"{_HELD_OUT}(?!alarm_)"),
  ("Reward and its parts", r"reward"),
  ("Policy", r"kl|entropy|ratio|clip_fraction"),
  ("Loss and gradient", r"loss|grad|accuracy"),
)


class Chart(NamedTuple):
  """A chart of one metric; places are in pixels."""

  title: str
  first: str  # value
  last: str
  points: str  # JSON: [[x, step, value], ...]
  grid: Sequence[tuple[float, str]]  # (y, value)
  references: Sequence[tuple[float, str, str]]  # (y, label, end it stands at)
  ticks: Sequence[tuple[float, int, str]]  # (x, step, anchor)
  raw: str  # polyline of all values, if `line` is their average; else ''
  line: str  # polyline
  marks: Sequence[tuple[float, float]]  # (x, y) of the values, if few
  width: int = WIDTH
  height: int = HEIGHT
  left: int = LEFT  # ends of the plot
  right: int = WIDTH - 6
  bottom: int = HEIGHT - BOTTOM


def read(workdir: str) -> dict[str, list[tuple[int, float]]]:
  """Returns {metric: [(step, value), ...]} of a workdir's metrics.jsonl.

  Values that were not finite, null in the file, are left out.
  """
  found: dict[str, list[tuple[int, float]]] = {}
  for record in metric_writer.read(workdir):
    for name, value in record.items():
      if name != "step" and value is not None:
        found.setdefault(name, []).append((record["step"], value))
  return found


def charts(
  curves: Mapping[str, Curve], summary: Summary
) -> tuple[dict[str, list[Chart]], list[str]]:
  """Returns the charts under their headings, and the metrics that never change.

  The latter as 'title = value'. Metrics of no group are left out.
  """
  found: dict[str, list[Chart]] = {}
  constant = []
  for group, names in grouped(curves, summary).items():
    for name in names:
      points = curves[name]
      if len({value for _, value in points}) > 1:
        found.setdefault(group, []).append(chart(name, points, summary))
      else:
        constant.append(f"{title(name)} = {number(points[0][1])}")
  return found, constant


def grouped(names: Iterable[str], summary: Summary) -> dict[str, list[str]]:
  """Returns {heading: metrics} in the order of the page; some have no group."""
  names = list(names)
  held_out = in_order(re.sub(_HELD_OUT, "", name) for name in names)
  places = {f"eval/{name}": place for place, name in enumerate(held_out)}
  groups: dict[str, list[str]] = {name: [] for name, _ in _GROUPS}
  for name in sorted(names, key=functools.partial(_order, places)):
    group = next((g for g, p in _GROUPS if re.search(p, name)), None)
    if group:
      groups[group].append(name)
  return {_heading(k, summary): some for k, some in groups.items() if some}


def _heading(group: str, summary: Summary) -> str:
  if group != _GROUPS[0][0]:
    return group
  population = summary.get("population", "users")
  return f"{population.capitalize()}, during training"


def title(name: str) -> str:
  """Returns a metric's name as the table has it, or in words."""
  held_out = re.sub(_HELD_OUT, "", name)
  if held_out != name and (metric := describe(held_out)):
    return metric.title
  return name.replace("_", " ").replace("/", ": ")


def _order(places: Mapping[str, int], name: str) -> tuple:
  """Sorts held-out metrics as the table does, then totals, means, the rest."""
  if name in places:
    return (0, places[name])
  return (1, "/" in name, not name.endswith("_mean"), name)


def chart(name: str, points: Curve, summary: Summary) -> Chart:
  """Returns the chart of one metric, with chance and aim where known."""
  steps, values = np.asarray(points, np.float64).T
  references = _references(name, summary)
  x = Scale(steps[0], max(steps[-1], steps[0] + 1), LEFT, WIDTH - 6)
  y = around([*values, *references.values()], HEIGHT - BOTTOM - 4, 6)

  def path(series):
    return " ".join(
      f"{x.place(s):.1f},{y.place(v):.1f}"
      for s, v in zip(steps, series, strict=True)
    )

  many = len(values) > MANY
  sides = {"real": "end", "random": "start"}
  data = [[round(float(x.place(s)), 1), int(s), number(v)] for s, v in points]
  return Chart(
    title=title(name),
    first=number(values[0]),
    last=number(values[-1]),
    points=json.dumps(data),
    grid=[(place, number(value, 2)) for place, value in y.ticks(3)],
    references=[
      (y.place(v), label, sides[label]) for label, v in references.items()
    ],
    ticks=[
      (x.place(steps[0]), int(steps[0]), "start"),
      (x.place(steps[-1]), int(steps[-1]), "end"),
    ],
    raw=path(values) if many else "",
    line=path(smooth(values) if many else values),
    marks=[] if many else [(x.place(s), y.place(v)) for s, v in points],
  )


def _references(name: str, summary: Summary) -> dict[str, float]:
  """Returns the rows of the table to compare a curve with: {label: mean}."""
  if not re.search(_HELD_OUT, name):
    return {}
  metric = name.rsplit("/", 1)[-1]
  return {
    label: summary["models"][row][metric]["mean"]
    for label, row in (("real", "real_next_item"), ("random", "random_item"))
    if metric in summary["models"].get(row, {})
  }


def smooth(values: np.ndarray) -> np.ndarray:
  """Averages each value with those before it, over a tenth of the run."""
  window = max(len(values) // 10, 2)
  total = np.cumsum(np.concatenate([[0.0], values]))
  end = np.arange(1, len(values) + 1)
  start = np.maximum(end - window, 0)
  return (total[end] - total[start]) / (end - start)


def number(value: float, digits: int = 3) -> str:
  """Writes a number in few characters: 0.0312, 12.5, 3.1e-05, 1234."""
  if value == 0 or abs(value) >= 10**digits:
    return f"{value:.0f}"
  return f"{value:.{digits}g}"
