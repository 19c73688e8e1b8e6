"""Learning curves of report.html, as inline SVG."""

from collections.abc import Mapping, Sequence
from html import escape
import json
import re

import numpy as np

from genrec_jax.evals.scores import METRICS
from genrec_jax.evals.summary import Summary
from genrec_jax.runtime import metrics as metrics_lib

Curve = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320, 132, 47, 18  # of a curve
_GROUPS = (
  ("During training", r"^eval/"),
  ("Reward and its parts", r"reward"),
  ("Policy", r"kl|entropy|ratio|clip_fraction"),
  ("Loss and gradient", r"loss|grad|accuracy"),
)


def read(workdir: str) -> dict[str, list[tuple[int, float]]]:
  """Returns {metric: [(step, value), ...]} of a workdir's metrics.jsonl.

  Values that were not finite, null in the file, are left out.
  """
  found: dict[str, list[tuple[int, float]]] = {}
  for record in metrics_lib.read(workdir):
    for name, value in record.items():
      if name != "step" and value is not None:
        found.setdefault(name, []).append((record["step"], value))
  return found


def curves_html(curves: Mapping[str, Curve], summary: Summary) -> str:
  """Returns the section of the curves, a small chart per metric, or ''."""
  groups: dict[str, list[str]] = {name: [] for name, _ in _GROUPS}
  constant = []
  for name, points in sorted(curves.items(), key=lambda item: _order(item[0])):
    group = next((g for g, p in _GROUPS if re.search(p, name)), None)
    if group and len({value for _, value in points}) > 1:
      groups[group].append(_curve(name, points, summary))
    elif group:
      constant.append(f"{escape(_title(name))} = {_number(points[0][1])}")
  sections = "".join(
    f"<h3>{escape(_heading(group, summary))}</h3>"
    f'<div class="curves">{"".join(figures)}</div>'
    for group, figures in groups.items()
    if figures
  )
  if not sections:
    return ""
  return (
    '<h2>Learning curves</h2><p class="lead">By training step. The pale line is'
    " what was measured, the strong one an average over the steps before it;"
    " dashed lines are rows of the table.</p>"
    + sections
    + (f'<p class="key">The same at every step: {", ".join(constant)}.</p>')
    * bool(constant)
  )


def _heading(group: str, summary: Summary) -> str:
  if group != _GROUPS[0][0]:
    return group
  population = summary.get("population", "users")
  return f"{population.capitalize()}, during training"


def _title(name: str) -> str:
  """Returns a metric's name as the table has it, or in words."""
  held_out = re.sub(_GROUPS[0][1], "", name)
  if held_out != name and held_out in METRICS:
    return METRICS[held_out].title
  return name.replace("_", " ").replace("/", ": ")


def _order(name: str) -> tuple:
  """Sorts held-out metrics as the table does, then totals, means, the rest."""
  held_out = re.sub(_GROUPS[0][1], "", name)
  if held_out in METRICS:
    return (0, list(METRICS).index(held_out))
  return (1, "/" in name, not name.endswith("_mean"), name)


def _curve(name: str, points: Curve, summary: Summary) -> str:
  """Draws one metric; where the table has it too, chance and aim dashed."""
  steps, values = np.asarray(points, np.float64).T
  held_out = name.rsplit("/", 1)[-1]
  references = {
    label: summary["models"][row][held_out]["mean"]
    for label, row in (("real", "real_next_item"), ("random", "random_item"))
    if re.search(_GROUPS[0][1], name)
    and held_out in summary["models"].get(row, {})
  }
  ends = np.concatenate([values, list(references.values())])
  low, high = float(ends.min()), float(ends.max())
  if high - low < 1e-9 * max(abs(high), 1):
    low, high = low - 0.5, high + 0.5
  pad = 0.06 * (high - low)
  low, high = low - pad, high + pad

  def x(step):
    span = max(steps[-1] - steps[0], 1)
    return _LEFT + (step - steps[0]) / span * (_WIDTH - _LEFT - 6)

  def y(value):
    return 6 + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - 10)

  def path(series):
    return " ".join(
      f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, series, strict=True)
    )

  lines = []
  for value in (low + pad, (low + high) / 2, high - pad):
    lines.append(
      f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y(value):.1f}" '
      f'y2="{y(value):.1f}"/><text x="{_LEFT - 6}" y="{y(value) + 3:.1f}" '
      f'text-anchor="end">{_number(value, 2)}</text>'
    )
  # One label at each end, for the two lines may lie on each other.
  sides = {"real": (_WIDTH - 6, "end"), "random": (_LEFT, "start")}
  for label, value in references.items():
    at, anchor = sides[label]
    lines.append(
      f'<line class="reference" x1="{_LEFT}" x2="{_WIDTH - 6}" '
      f'y1="{y(value):.1f}" y2="{y(value):.1f}"/><text x="{at}" '
      f'y="{y(value) - 3:.1f}" text-anchor="{anchor}">{label}</text>'
    )
  for step, anchor in ((steps[0], "start"), (steps[-1], "end")):
    lines.append(
      f'<text x="{x(step):.1f}" y="{_HEIGHT - 3}" '
      f'text-anchor="{anchor}">{int(step)}</text>'
    )
  if len(values) > 40:
    lines.append(f'<polyline class="raw" points="{path(values)}"/>')
    lines.append(f'<polyline class="line" points="{path(_smooth(values))}"/>')
  else:
    lines.append(f'<polyline class="line" points="{path(values)}"/>')
    lines += [
      f'<circle class="mark" cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.6"/>'
      for s, v in points
    ]
  lines.append(f'<line class="rule" y1="4" y2="{_HEIGHT - _BOTTOM}"/>')
  data = [[round(float(x(s)), 1), int(s), _number(v)] for s, v in points]
  label = escape(_title(name))
  return (
    f'<figure data-points="{escape(json.dumps(data))}"><figcaption>'
    f"<span>{label}</span><output>{_number(values[0])} → "
    f'{_number(values[-1])}</output></figcaption><svg viewBox="0 0 {_WIDTH} '
    f'{_HEIGHT}" role="img" aria-label="{label} by step">{"".join(lines)}'
    "</svg></figure>"
  )


def _smooth(values: np.ndarray) -> np.ndarray:
  """Averages each value with those before it, over a tenth of the run."""
  window = max(len(values) // 10, 2)
  total = np.cumsum(np.concatenate([[0.0], values]))
  end = np.arange(1, len(values) + 1)
  start = np.maximum(end - window, 0)
  return (total[end] - total[start]) / (end - start)


def _number(value: float, digits: int = 3) -> str:
  """Writes a number in few characters: 0.0312, 12.5, 3.1e-05, 1234."""
  if value == 0 or abs(value) >= 10**digits:
    return f"{value:.0f}"
  return f"{value:.{digits}g}"
