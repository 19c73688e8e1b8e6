"""Learning curves of several runs, laid over each other."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genrec_jax.evals import curves as curves_lib
from genrec_jax.evals.compare.groups import Group
from genrec_jax.evals.curves import BOTTOM, HEIGHT, LEFT, MANY, WIDTH, Curve
from genrec_jax.evals.scale import Scale, around


class Line(NamedTuple):
  """A run's curve; its group's colour tells whose it is."""

  colour: str  # CSS
  name: str  # of the group, and the seed
  path: str  # polyline, pixels


class Overlay(NamedTuple):
  """A chart of one metric; places are in pixels."""

  title: str
  lines: list[Line]
  grid: Sequence[tuple[float, str]]  # (y, value)
  ticks: Sequence[tuple[float, int, str]]  # (x, step, anchor)
  width: int = WIDTH
  height: int = HEIGHT
  left: int = LEFT  # ends of the plot
  right: int = WIDTH - 6


def overlays(
  groups: Sequence[Group], colours: Mapping[str, str]
) -> dict[str, list[Overlay]]:
  """Returns the charts under their headings, of metrics that change.

  Args:
    groups: of runs, of which evaluations have no curves, and rows that are
      not of the model that the run trained have none of theirs.
    colours: {group: CSS colour}.
  """
  curves = [
    (group, run.seed, curves_lib.read(run.path))
    for group in groups
    for run in group.runs
    if run.row == run.config["task"]
  ]
  names = dict.fromkeys(name for _, _, found in curves for name in found)
  grouped = curves_lib.grouped(names, groups[0].runs[0].summary)
  charts: dict[str, list[Overlay]] = {}
  for heading, members in grouped.items():
    for name in members:
      lines = {
        (group.name, seed): found[name]
        for group, seed, found in curves
        if name in found
      }
      if len({value for points in lines.values() for _, value in points}) > 1:
        chart = _overlay(name, lines, colours)
        charts.setdefault(heading, []).append(chart)
  return charts


def _overlay(
  name: str,
  curves: Mapping[tuple[str, int], Curve],
  colours: Mapping[str, str],
) -> Overlay:
  """Returns the chart of one metric of {(group, seed): curve}."""
  # Noise of many values would hide what the averages show.
  smooth = {
    key: curves_lib.smooth(np.asarray(points, np.float64)[:, 1])
    if len(points) > MANY
    else [value for _, value in points]
    for key, points in curves.items()
  }
  steps = [step for points in curves.values() for step, _ in points]
  first, last = min(steps), max(steps)
  x = Scale(first, max(last, first + 1), LEFT, WIDTH - 6)
  values = [value for series in smooth.values() for value in series]
  y = around(values, HEIGHT - BOTTOM - 4, 6)
  return Overlay(
    title=curves_lib.title(name),
    lines=[
      Line(
        colours[group],
        f"{group}, seed {seed}",
        " ".join(
          f"{x.place(step):.1f},{y.place(value):.1f}"
          for (step, _), value in zip(points, smooth[group, seed], strict=True)
        ),
      )
      for (group, seed), points in curves.items()
    ],
    grid=[(at, curves_lib.number(value, 2)) for at, value in y.ticks(3)],
    ticks=[(x.place(first), first, "start"), (x.place(last), last, "end")],
  )
