"""The frontier of report.html: alignment against diversity, and in words."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from genrec_jax.evals.frontier import Gap, Point
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import metric_of
from genrec_jax.evals.scale import Scale, around
from genrec_jax.evals.summary import Summary

_WIDTH, _HEIGHT = 620, 340  # of the chart, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 70, 14, 40  # its margins


class Dot(NamedTuple):
  """A model at a temperature; all places are in pixels."""

  x: float
  y: float
  across: tuple[float, float]  # ends of its interval of diversity
  upright: tuple[float, float]  # and of alignment
  label: str


class Curve(NamedTuple):
  """A model's dots, by their diversity, and the line through them."""

  name: str
  colour: str  # CSS
  path: str
  dots: list[Dot]


class Chart(NamedTuple):
  """The chart, and what it says in words."""

  title: str
  across: str  # titles of the axes
  upright: str
  curves: list[Curve]
  xticks: list[tuple[float, str]]  # (place, value)
  yticks: list[tuple[float, str]]
  words: list[str]
  width: int = _WIDTH
  height: int = _HEIGHT
  left: int = _LEFT  # ends of the plot
  right: int = _WIDTH - _RIGHT
  top: int = _TOP
  bottom: int = _HEIGHT - _BOTTOM


def section(summary: Summary, colours: dict[str, str]) -> Chart | None:
  """Returns the chart of a summary's frontier; None if it has none."""
  found = summary.get("frontier")
  if not found:
    return None
  points = [p for curve in found["curves"].values() for p in curve]
  x = _scale(points, "diversity", _LEFT, _WIDTH - _RIGHT)
  y = _scale(points, "alignment", _HEIGHT - _BOTTOM, _TOP)
  across, upright = (
    metric_of(found[key]).title for key in ("diversity", "alignment")
  )
  return Chart(
    title=f"{upright} against {across}",
    across=across,
    upright=upright,
    curves=[
      _curve(name, colours.get(name, "var(--ink)"), curve, x, y)
      for name, curve in found["curves"].items()
    ],
    xticks=_ticks(x),
    yticks=_ticks(y),
    words=lines(summary),
  )


def lines(summary: Summary) -> list[str]:
  """Returns the differences at equal diversity in words, a line for each pair.

  'rl - sft at equal diversity (0.21 to 0.30): preference match from +0.012
  (+0.001 to +0.022) to +0.051 (+0.040 to +0.062): better at all'.
  """
  found = summary.get("frontier")
  if not found:
    return []
  title = metric_of(found["alignment"]).title
  return [
    f"{name} at equal diversity: {_words(gaps, title)}"
    for name, gaps in found["differences"].items()
  ]


def _words(gaps: Sequence[Gap], title: str) -> str:
  if not gaps:
    return "none that both reach; sample at other eval.temperatures"
  signs = {int(g["low"] > 0) - int(g["high"] < 0) for g in gaps}
  # Between corners the difference is a line: what holds at all of them holds.
  verdict = {
    frozenset({1}): "better throughout",
    frozenset({-1}): "worse throughout",
    frozenset({0}): "not told apart",
    frozenset({0, 1}): "better in part, never worse",
    frozenset({0, -1}): "worse in part, never better",
  }.get(frozenset(signs), "better in part, worse in part")
  ends = sorted(gaps, key=lambda gap: gap["mean"])
  ends = [ends[0], ends[-1]] if len(gaps) > 1 else ends
  values = " to ".join(
    f"{g['mean']:+.3f} ({g['low']:+.3f} to {g['high']:+.3f}) at"
    f" {g['diversity']:.2f}"
    for g in ends
  )
  return f"{title} {values}; {verdict}"


def _scale(
  points: Sequence[Point],
  axis: Literal["diversity", "alignment"],
  start: float,
  end: float,
) -> Scale:
  ends = [p[axis][side] for p in points for side in ("low", "high")]
  return around(ends, start, end)


def _ticks(scale: Scale) -> list[tuple[float, str]]:
  return [(place, f"{value:.2f}") for place, value in scale.ticks(5)]


def _curve(
  name: str, colour: str, curve: Sequence[Point], x: Scale, y: Scale
) -> Curve:
  dots = [
    Dot(
      x=x.place(point["diversity"]["mean"]),
      y=y.place(point["alignment"]["mean"]),
      across=_ends(point["diversity"], x),
      upright=_ends(point["alignment"], y),
      label=f"{point['temperature']:g}",
    )
    for point in curve
  ]
  path = " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in dots)
  return Curve(name, colour, path, dots)


def _ends(cell: Interval, scale: Scale) -> tuple[float, float]:
  return scale.place(cell["low"]), scale.place(cell["high"])
