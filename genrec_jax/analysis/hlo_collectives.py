"""Collectives of a compiled program: what travels between devices."""

from collections.abc import Hashable
import dataclasses
import re

from genrec_jax.analysis.hlo import Array, Program, total_bytes
from genrec_jax.analysis.hlo_walk import Loop, walk

# One transfer of a TPU that several instructions carry on has one chain.
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-broadcast",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)
# Asynchronous ones whose result lists the operands, too.
_HOLDS_OPERANDS = ("all-gather-start", "collective-permute-start")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A transfer between devices."""

  kind: str
  name: str
  arrays: tuple[Array, ...]  # of its result
  nbytes: int  # of its operands or its result, whichever is more; once
  times: int
  loops: tuple[Loop, ...]
  op_name: str

  def within(self, scope: str) -> bool:
    """True if it runs in the loop of `jax.named_scope(scope)`."""
    return any(loop.is_of(scope) for loop in self.loops)


def find(program: Program) -> list[Collective]:
  """Returns the transfers between devices, in the order of the walk.

  TPUs let one transfer go on through several fusions, loops of others among
  them, each of which names it: those of one `chain_id` are one transfer, as
  often as where it runs least often.
  """
  found: dict[Hashable, Collective] = {}
  for step in walk(program):
    line = step.instruction
    kind = line.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    read = sum(total_bytes(x.arrays) for x in step.computation.operands(line))
    written = total_bytes(line.arrays)
    if line.opcode in _HOLDS_OPERANDS:
      written -= read  # else the operands would count twice
    moved = Collective(
      kind=kind,
      name=line.name,
      arrays=line.arrays,
      nbytes=max(read, written),
      times=step.times,
      loops=step.loops,
      op_name=line.op_name,
    )
    chain = _CHAIN.search(line.attributes)
    channel = _CHANNEL.search(line.attributes)
    key = (chain[1], channel and channel[1]) if chain else len(found)
    if key not in found or step.times < found[key].times:
      found[key] = moved
  return list(found.values())
