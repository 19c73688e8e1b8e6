"""Figures in a straight line from two depths, by hand."""

import dataclasses

from genrec_jax.analysis import depth, roofline
from genrec_jax.analysis.step_report import Report


def report(layers):
  """Three fixed units of all, and one a layer; sums between chips two."""
  size = 3 + layers
  return Report(
    chips=8,
    mesh={"data": 8},
    settings={},
    hbm=100,
    memory={"trained": size},
    total=2 * size,
    compile_seconds=1.0,
    work={"FLOPs": {"all": size, "decode loop": 10 * layers}},
    phases=[
      # Bound by FLOPs where there are few layers, by bytes where many.
      roofline.phase("decode", 9.0, 1.0 * layers, 0.0),
      roofline.phase("update", 1.0, 0.5, 0.0),
    ],
    collectives=[
      {
        "where": "decode loop",
        "kind": "all-reduce",
        "instructions": 2 * layers,
        "times": 2 * layers + 3,
        "bytes": 20 * layers,
        "largest": 7,
      }
    ],
  )


def test_a_line_through_two_depths_meets_a_third():
  found = depth.extrapolate((report(2), report(4)), (2, 4), 24)
  assert dataclasses.replace(found, compile_seconds=1.0) == report(24)
  assert found.compile_seconds == 2.0
  assert [phase.bound for phase in found.phases] == ["bytes", "FLOPs"]


def test_what_the_shallower_lacks_grows_from_nothing():
  few, more = report(2), report(4)
  few.collectives, few.phases = [], few.phases[:1]
  found = depth.extrapolate((few, more), (2, 4), 6)
  assert found.collectives[0]["bytes"] == 160
  assert found.phases[1].flop_seconds == 2.0
