"""Depth: figures of a model from two of fewer layers, in minutes.

Layers are alike, so whatever a step holds, computes, reads or sends is a
constant and so much a layer. The peak of memory is the largest of several such
sums, of which another can be the largest where there are more layers: it is at
least what this says.
"""

import dataclasses
from typing import Any

from genrec_jax.analysis import roofline
from genrec_jax.analysis.step_report import Report


def extrapolate(
  reports: tuple[Report, Report], layers: tuple[int, int], to: int
) -> Report:
  """Returns the report of `to` layers, in a straight line from two others.

  Args:
    reports: of two depths, both compiled.
    layers: theirs, in the language model; the second are more.
    to: the model's own.

  Returns:
    A report; its time of compiling is that of both.
  """
  few, more = reports
  share = (to - layers[0]) / (layers[1] - layers[0])

  def line(first: float, second: float) -> float:
    return first + (second - first) * share

  def whole(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {k: round(line(first.get(k, 0), v)) for k, v in second.items()}

  # The largest transfer is one of a layer, and stays.
  def moved(kinds: dict[str, Any]) -> dict[str, Any]:
    same = [
      x
      for x in few.collectives
      if (x["where"], x["kind"]) == (kinds["where"], kinds["kind"])
    ]
    names = ("instructions", "times", "bytes")
    first = {name: sum(x[name] for x in same) for name in names}
    return kinds | whole(first, {name: kinds[name] for name in names})

  # A phase that only the deeper one has grows from nothing.
  before = {phase.name: phase for phase in few.phases}
  phases = []
  for phase in more.phases:
    first = before.get(phase.name, roofline.phase(phase.name, 0, 0, 0))
    names = ("flop_seconds", "byte_seconds", "link_seconds")
    times = (line(getattr(first, n), getattr(phase, n)) for n in names)
    phases.append(roofline.phase(phase.name, *times))
  return dataclasses.replace(
    more,
    memory=whole(few.memory, more.memory),
    total=round(line(few.total, more.total)),
    compile_seconds=few.compile_seconds + more.compile_seconds,
    work={k: whole(few.work[k], v) for k, v in more.work.items()},
    phases=phases,
    collectives=[moved(kinds) for kinds in more.collectives],
  )
