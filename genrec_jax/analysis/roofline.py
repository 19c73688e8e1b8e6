"""Roofline: the least seconds of each phase of a step on a chip, and its bound.

Each phase's products at the chip's peak, its bytes at the rate of the memory,
and what it sends at the rate of the links: a phase takes at least the longest
of the three, the step at least the sum over phases. (`cost_analysis` has an
estimate of its own, `optimal_seconds`, which is negative where there are
loops.) A phase is a `jax.named_scope` of the step.
"""

import collections
from collections.abc import Iterable
import dataclasses
import re

import numpy as np

from genrec_jax.analysis import hlo_collectives, hlo_cost
from genrec_jax.analysis.hlo import Program
from genrec_jax.analysis.hlo_walk import Loop, walk
from genrec_jax.core.chips import Chip

# The scopes that steps name, in the order of a step.
SCOPES = (
  "targets",
  "prefill",
  "decode",
  "vq_decode",
  "rewards",
  "reference",
  "policy",
  "update",
)
OTHER = "other"
BACKWARD = " backward"  # behind a scope: its gradient
_SCOPE = re.compile(rf"\b({'|'.join(SCOPES)})\b")
# Passes of the matrix unit over float32 operands: it multiplies bfloat16, of
# which float32 takes three parts. `jax.lax.Precision`.
_PASSES = {"default": 1, "high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True)
class Phase:
  """What one phase takes at least, in seconds on one chip."""

  name: str
  flop_seconds: float  # passes of float32 included
  byte_seconds: float  # reading from and writing to main memory
  link_seconds: float  # sending to other chips
  bound: str  # what takes the longest: 'FLOPs', 'bytes' or 'links'

  @property
  def seconds(self) -> float:
    """The longest of the three."""
    return max(self.flop_seconds, self.byte_seconds, self.link_seconds)


def phases(program: Program, chip: Chip) -> list[Phase]:
  """Returns the phases that a compiled step has, in the order of `SCOPES`.

  Args:
    program: see `hlo.parse`.
    chip: one of the program's devices.
  """
  # [FLOPs, bytes, bytes sent] of each phase.
  counts: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(3))
  for step in walk(program):
    line = step.instruction
    flops = hlo_cost.step_flops(step) * _passes(line.attributes)
    nbytes = hlo_cost.step_bytes(program, step)
    if flops or nbytes:
      counts[phase_name(line.op_name, step.loops)] += [flops, nbytes, 0]
  for moved in hlo_collectives.find(program):
    sent = moved.times * moved.nbytes
    counts[phase_name(moved.op_name, moved.loops)] += [0, 0, sent]
  order = [scope + way for scope in SCOPES for way in ("", BACKWARD)]
  rates = np.asarray([chip.flops, chip.hbm_rate, chip.link_rate])
  return [
    phase(name, *(counts[name] / rates).tolist())
    for name in [*order, OTHER]
    if name in counts
  ]


def phase(name: str, flop: float, byte: float, link: float) -> Phase:
  """Returns a phase of so many seconds by FLOPs, bytes and links."""
  times = {"FLOPs": flop, "bytes": byte, "links": link}
  return Phase(name, flop, byte, link, max(times, key=lambda n: times[n]))


def seconds(all_phases: Iterable[Phase]) -> float:
  """Returns the least seconds of a step: its phases follow one another."""
  return sum(phase.seconds for phase in all_phases)


def phase_name(op_name: str, loops: tuple[Loop, ...] = ()) -> str:
  """Returns the phase of an instruction: the innermost scope it is traced in.

  Args:
    op_name: such as 'jit(train_step)/transpose(jvp(policy))/dot_general'.
    loops: around it. What the compiler adds to a loop has no name of its own.
  """
  around = [loop.op_name for loop in reversed(loops)]
  # An instruction that the compiler merged has all names, '(a:b)'; the first.
  for name in (*op_name.split(":"), *around):
    scopes = _SCOPE.findall(name)
    if scopes:
      # Of a derivative JAX writes transpose(jvp(scope)); what is computed
      # again for it counts to it.
      backward = "transpose(" in name or "rematted" in name
      return scopes[-1] + (BACKWARD if backward else "")
  return OTHER


def _passes(attributes: str) -> int:
  """Returns how often a product's operands go through the matrix unit."""
  found = re.search(r"operand_precision=\{(\w+),(\w+)\}", attributes)
  if not found:
    return 1
  return max(_PASSES.get(name, 1) for name in found.groups())
