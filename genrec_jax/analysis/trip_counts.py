"""Trip counts: how often the while loops of a compiled program run."""

from collections.abc import Callable
import functools
import operator
import re

from genrec_jax.analysis.hlo import Computation, Instruction, Program

_KNOWN = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
# Passes that are counted out: JAX's loops are over codes, layers and chunks.
_MAX_TRIPS = 10_000
_OPERATIONS: dict[str, Callable[..., int]] = {
  "add": operator.add,
  "maximum": max,
  "minimum": min,
  "multiply": operator.mul,
  "subtract": operator.sub,
}
_COMPARISONS: dict[str, Callable[..., bool]] = {
  "EQ": operator.eq,
  "GE": operator.ge,
  "GT": operator.gt,
  "LE": operator.le,
  "LT": operator.lt,
  "NE": operator.ne,
}
# Instructions whose result has the value of their operand.
_SAME_VALUE = ("bitcast", "convert", "copy", "opt-barrier", "reshape")


def trip_count(
  program: Program, computation: Computation, line: Instruction
) -> int | None:
  """Returns how often a while loop runs: as XLA says, else by counting.

  The scalars that the condition reads are followed from their constant starts
  through the body, whatever the steps they go by, until the condition is false.
  None: they start from, or change by, what the program computes otherwise.

  Args:
    program: of the loop.
    computation: where the loop stands.
    line: the loop's instruction.
  """
  known = _KNOWN.search(line.attributes)
  if known:
    return int(known[1])
  [condition] = line.called["condition"]
  [body] = line.called["body"]
  start = computation.operands(line)[0]
  last: dict[int, int | None] = {}  # the carried scalars before a pass

  def initial(index: int) -> int | None:
    if start.opcode != "tuple":
      return None
    name = start.operands[index]
    return _scalar(program, computation, name, lambda *_: None)

  def carried(_: int, index: int | None) -> int | None:
    if index is None:
      return None
    if index not in last:
      last[index] = initial(index)
    return last[index]

  def root(name: str, index: int | None = None) -> int | None:
    part = program.computations[name]
    return _scalar(program, part, part.root, carried, index)

  # Runs the loop's counters, and nothing else of it.
  for count in range(_MAX_TRIPS):
    goes_on = root(condition)
    if goes_on is None:
      return None
    if not goes_on:
      return count
    # What a counter is counted by has to be known from the first pass on.
    size = -1
    while size != len(last):
      size = len(last)
      following = {index: root(body, index) for index in tuple(last)}
    if following == last:  # would go on for ever: it ends by its data
      return None
    last.update(following)
  return None


def _scalar(
  program: Program,
  computation: Computation,
  name: str,
  parameter: Callable[[int, int | None], int | None],
  index: int | None = None,
) -> int | None:
  """Returns the integer that an instruction computes, if it can be known.

  Args:
    program: what `computation` is of.
    computation: where the instruction is.
    name: of the instruction.
    parameter: value of a parameter, given its number and, of a tuple, the
      element's.
    index: of an instruction that gives a tuple, the element.
  """
  line = computation.instructions[name]
  of = functools.partial(_scalar, program, computation, parameter=parameter)
  if line.opcode == "constant":
    literal = {"true": "1", "false": "0"}.get(line.literal, line.literal)
    return int(literal) if re.fullmatch(r"-?\d+", literal) else None
  if line.opcode == "parameter":
    return parameter(int(line.literal), index)
  if line.opcode == "get-tuple-element":
    if index is not None:  # a tuple in a tuple
      return None
    element = int(line.attribute("index"))
    return of(line.operands[0], index=element)
  if line.opcode == "tuple":
    return None if index is None else of(line.operands[index])
  if line.opcode in _SAME_VALUE:
    return of(line.operands[0], index=index)
  if line.opcode in ("fusion", "call"):
    [called] = line.called.get("calls") or line.called["to_apply"]
    inner = program.computations[called]
    return _scalar(
      program,
      inner,
      inner.root,
      lambda number, element: of(line.operands[number], index=element),
      index,
    )
  operation: Callable[..., int]
  if line.opcode == "compare":
    operation = _COMPARISONS[line.attribute("direction")]
  elif line.opcode in _OPERATIONS:
    operation = _OPERATIONS[line.opcode]
  else:
    return None
  if line.arrays[0].shape:
    return None
  values = [of(operand) for operand in line.operands]
  return None if None in values else int(operation(*values))
