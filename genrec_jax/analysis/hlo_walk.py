"""Walk over a compiled program: each instruction where it runs, how often."""

from collections.abc import Iterator
import dataclasses
import re

from genrec_jax.analysis.hlo import Array, Computation, Instruction, Program
from genrec_jax.analysis.trip_counts import trip_count


@dataclasses.dataclass(frozen=True)
class Step:
  """An instruction where it runs, and how often."""

  instruction: Instruction
  computation: Computation
  times: int
  loops: tuple["Loop", ...]  # around it, outermost first
  fused: bool  # inside a fusion: reads and writes no memory of its own

  def within(self, scope: str) -> bool:
    """True if it runs in the loop of `jax.named_scope(scope)`."""
    return any(loop.is_of(scope) for loop in self.loops)


@dataclasses.dataclass(frozen=True)
class Loop:
  """A while loop; `trip_count` is None where it cannot be known."""

  name: str
  op_name: str
  trip_count: int | None
  times: int  # that it is entered, loops around it included
  carried: tuple[Array, ...]  # what goes round, arrays only read included

  def is_of(self, scope: str) -> bool:
    """True if it is the loop of `jax.named_scope(scope)`, not one inside."""
    return bool(re.search(rf"\b{scope}\)*/while$", self.op_name))


def walk(program: Program) -> Iterator[Step]:
  """Yields every instruction that runs, once for each place it is called from.

  Every branch of a conditional is followed, as if all were taken; functions
  that reduce or sort call for each element are not.
  """
  yield from _walk(program, program.entry, 1, (), False)


def loops(program: Program) -> list[Loop]:
  """Returns the while loops, outer ones before inner ones."""
  return [
    _loop(program, step)
    for step in walk(program)
    if step.instruction.opcode == "while"
  ]


def _walk(
  program: Program,
  name: str,
  times: int,
  loops: tuple[Loop, ...],
  fused: bool,
) -> Iterator[Step]:
  computation = program.computations[name]
  for line in computation.instructions.values():
    step = Step(line, computation, times, loops, fused)
    yield step
    if line.opcode == "while":
      loop = _loop(program, step)
      # Once where it is unknown; the report names such loops.
      count = 1 if loop.trip_count is None else loop.trip_count
      for body in line.called["body"]:
        yield from _walk(program, body, times * count, (*loops, loop), fused)
      continue
    for key, names in line.called.items():
      # The function of a reduction or a sort, called for each element.
      if key == "to_apply" and line.opcode != "call":
        continue
      inside = fused or line.opcode == "fusion"
      for called in names:
        yield from _walk(program, called, times, loops, inside)


def _loop(program: Program, step: Step) -> Loop:
  line = step.instruction
  return Loop(
    line.name,
    line.op_name,
    trip_count(program, step.computation, line),
    step.times,
    line.arrays,
  )
