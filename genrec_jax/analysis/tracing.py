"""Traces of `jax.profiler`: when instructions ran, and each part's time."""

import collections
import pathlib
from typing import Any

from jax.profiler import ProfileData


def spans(folder: str, module: str) -> list[tuple[float, float, str]]:
  """Returns (start, end, name) of each run of an instruction, in nanoseconds.

  On CPUs a thread may only launch an instruction, which others then compute:
  it ends when XLA says that its result is there.

  Args:
    folder: of `jax.profiler.trace`.
    module: the compiled program's name.
  """
  # XLA links a launch to the end of its work by an id: `_p`, the producer's, is
  # the `_c` of the event that consumes it.
  starts: dict[Any, tuple[float, float, str]] = {}
  ends: dict[Any, float] = {}
  for file in pathlib.Path(folder).glob("**/*.xplane.pb"):
    for plane in ProfileData.from_file(str(file)).planes:
      for event in (event for line in plane.lines for event in line.events):
        stats = dict(event.stats)
        if stats.get("hlo_module") == module and "hlo_op" in stats:
          end = event.start_ns + event.duration_ns
          # Without a link the thread did the work itself: a key that no id has.
          key = stats.get("_p", -len(starts) - 1)
          starts[key] = event.start_ns, end, stats["hlo_op"]
        elif event.name.startswith("end: "):
          ends[stats.get("_c")] = event.start_ns
  return [
    (start, max(end, ends.get(key, end)), name)
    for key, (start, end, name) in starts.items()
  ]


def kernels(
  folder: str,
) -> tuple[dict[str, tuple[float, int]], float]:
  """Returns the seconds of each kernel on a GPU, and those of all.

  Args:
    folder: of `jax.profiler.trace`.

  Returns:
    Name without its number -> (seconds, launches); and the seconds from the
    first launch's start to the last one's end.
  """
  events = [
    event
    for file in pathlib.Path(folder).glob("**/*.xplane.pb")
    for plane in ProfileData.from_file(str(file)).planes
    if plane.name.startswith("/device:GPU")
    for line in plane.lines
    if line.name.startswith("Stream")
    for event in line.events
  ]
  seconds: dict[str, float] = collections.defaultdict(float)
  launches: collections.Counter[str] = collections.Counter()
  for event in events:
    name = event.name.rstrip("_.0123456789")
    seconds[name] += event.duration_ns / 1e9
    launches[name] += 1
  if not events:
    return {}, 0.0
  start = min(event.start_ns for event in events)
  end = max(event.start_ns + event.duration_ns for event in events)
  found = {name: (seconds[name], launches[name]) for name in seconds}
  return found, (end - start) / 1e9


def shares(
  found: list[tuple[float, float, Any]], idle: Any
) -> dict[Any, float]:
  """Returns the seconds of each part, which add up to those of all.

  Parts under way at the same time share it equally.

  Args:
    found: (start, end, part), in nanoseconds.
    idle: the part that has the time when none is under way.
  """
  turns = [(start, 1, part) for start, _, part in found]
  # At equal times -1 sorts first: one that ends gives way to one that starts.
  turns = sorted(turns + [(end, -1, part) for _, end, part in found])
  seconds: dict[Any, float] = collections.defaultdict(float)
  active: collections.Counter[Any] = collections.Counter()
  # Swept once in the order of time; between two turns nothing changes.
  before = turns[0][0]
  for now, change, part in turns:
    under_way = active.total()
    if now > before and not under_way:
      seconds[idle] += (now - before) / 1e9
    elif now > before:
      for one, count in active.items():
        seconds[one] += (now - before) / 1e9 * count / under_way
    before = now
    active[part] += change
  return seconds
