"""Reads a compiled program: its loops, and what travels between devices.

The text is that of `compiled.as_text()`, after partitioning, so all numbers are
those of one device.

    program = hlo.parse(jax.jit(f).lower(*args).compile().as_text())
    hlo_cost.flops(program), hlo_cost.memory_bytes(program)
    [c for c in hlo.collectives(program) if c.within("decode")]
"""

from collections.abc import Callable, Hashable, Iterator
import dataclasses
import functools
import math
import operator
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # others end in their bits
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
  r"\b(calls|body|condition|to_apply|branch_computations|true_computation"
  r"|false_computation|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
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
class Array:
  """One array of a type; `space` is 0 for the device's main memory."""

  dtype: str
  shape: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes, without padding."""
    found = re.search(r"\d+", self.dtype)
    bits = _BITS.get(self.dtype, int(found[0]) if found else 0)
    return math.ceil(self.size * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]  # of the result; several for a tuple
  operands: tuple[str, ...]  # names within the same computation
  literal: str  # what stands in the operands' place: a constant's value
  attributes: str
  called: dict[str, tuple[str, ...]]  # attribute -> computations

  @property
  def op_name(self) -> str:
    """Where in the traced program it comes from: 'jit(f)/scope/while'."""
    found = _OP_NAME.search(self.attributes)
    return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of the program; its last line may not be its root."""

  name: str
  instructions: dict[str, Instruction]
  root: str

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions that an instruction reads."""
    return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled module."""

  computations: dict[str, Computation]
  entry: str


@dataclasses.dataclass(frozen=True)
class Step:
  """An instruction where it runs, and how often."""

  instruction: Instruction
  computation: Computation
  times: int
  loops: tuple["Loop", ...]  # around it, outermost first
  fused: bool  # inside a fusion: reads and writes no memory of its own

  def within(self, scope: str) -> bool:
    """Says if it runs in the loop of `jax.named_scope(scope)`."""
    return any(loop.is_of(scope) for loop in self.loops)


@dataclasses.dataclass(frozen=True)
class Loop:
  """A while loop; `trip_count` is None where nothing tells it."""

  name: str
  op_name: str
  trip_count: int | None
  times: int  # that it is entered, loops around it included
  carried: tuple[Array, ...]  # what goes round, arrays only read included

  def is_of(self, scope: str) -> bool:
    """Says if it is the loop of `jax.named_scope(scope)`, not one inside."""
    return bool(re.search(rf"\b{scope}\)*/while$", self.op_name))


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
    """Says if it runs in the loop of `jax.named_scope(scope)`."""
    return any(loop.is_of(scope) for loop in self.loops)


def parse(text: str) -> Program:
  """Reads the text of a compiled module.

  Raises:
    ValueError: there is no entry computation.
  """
  computations, entry, name, lines, root = {}, None, None, {}, ""
  for line in text.splitlines():
    if name is None:
      header = _HEADER.match(line)
      if header and not line.startswith("HloModule"):
        name, lines, root = header[2], {}, ""
        entry = name if header[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(name, lines, root)
      name = None
    elif found := _LINE.match(line):
      lines[found[2]] = _instruction(found[2], found[3])
      root = found[2] if found[1] else root
  if entry is None:
    raise ValueError("no ENTRY computation: expected compiled.as_text()")
  return Program(computations, entry)


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


def collectives(program: Program) -> list[Collective]:
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
      written -= read
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


def total_bytes(arrays: tuple[Array, ...]) -> int:
  """Returns the bytes of several arrays."""
  return sum(array.nbytes for array in arrays)


def _arrays(text: str) -> tuple[Array, ...]:
  """Reads a type; memory spaces are written S(n) in a layout."""

  def array(dtype, shape, layout):
    space = re.search(r"S\((\d+)\)", layout)
    sizes = [int(n) for n in re.findall(r"\d+", shape)]
    return Array(dtype, tuple(sizes), int(space[1]) if space else 0)

  return tuple(array(*found) for found in _ARRAY.findall(text))


def _instruction(name: str, text: str) -> Instruction:
  """Reads what follows the equals sign: type opcode(operands), attributes."""
  found = _OPCODE.search(text)
  if not found:
    raise ValueError(f"not an HLO instruction: {name} = {text[:80]}")
  depth, end = 1, found.end()
  while depth:
    depth += {"(": 1, ")": -1}.get(text[end], 0)
    end += 1
  inner, attributes = text[found.end() : end - 1], text[end:]
  return Instruction(
    name=name,
    opcode=found[1],
    arrays=_arrays(text[: found.start()]),
    operands=tuple(_NAME.findall(inner)),
    literal=inner,
    attributes=attributes,
    called={
      key: tuple(_NAME.findall(value))
      for key, value in _CALLED.findall(attributes)
    },
  )


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
      count = 1 if loop.trip_count is None else loop.trip_count
      for body in line.called["body"]:
        yield from _walk(program, body, times * count, (*loops, loop), fused)
      continue
    for key, names in line.called.items():
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
    _trip_count(program, step),
    step.times,
    line.arrays,
  )


# Passes that are counted out: JAX's loops are over codes, layers and chunks.
_MAX_TRIPS = 10_000
_OPERATIONS = {
  "add": operator.add,
  "maximum": max,
  "minimum": min,
  "multiply": operator.mul,
  "subtract": operator.sub,
}
_COMPARISONS = {
  "EQ": operator.eq,
  "GE": operator.ge,
  "GT": operator.gt,
  "LE": operator.le,
  "LT": operator.lt,
  "NE": operator.ne,
}
_SAME_VALUE = ("bitcast", "convert", "copy", "opt-barrier", "reshape")


def _trip_count(program: Program, step: Step) -> int | None:
  """Returns what XLA knows, or what counting by the loop's own scalars gives.

  The scalars that the condition reads are followed from their constant starts
  through the body, whatever the steps they go by, until the condition is false.
  None: they start from, or change by, what the program computes otherwise.
  """
  line = step.instruction
  known = _TRIPS.search(line.attributes)
  if known:
    return int(known[1])
  [condition] = line.called["condition"]
  [body] = line.called["body"]
  start = step.computation.operands(line)[0]
  last: dict[int, int | None] = {}  # the carried scalars before a pass

  def initial(index: int) -> int | None:
    if start.opcode != "tuple":
      return None
    name = start.operands[index]
    return _scalar(program, step.computation, name, lambda *_: None)

  def carried(_: int, index: int | None) -> int | None:
    if index is None:
      return None
    if index not in last:
      last[index] = initial(index)
    return last[index]

  def root(name: str, index: int | None = None) -> int | None:
    computation = program.computations[name]
    return _scalar(program, computation, computation.root, carried, index)

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
    if following == last:
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
  """Returns the integer that an instruction computes, if it can be told.

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
    element = int(re.search(r"index=(\d+)", line.attributes)[1])
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
  if line.opcode == "compare":
    operation = _COMPARISONS[re.search(r"direction=(\w+)", line.attributes)[1]]
  elif line.opcode in _OPERATIONS:
    operation = _OPERATIONS[line.opcode]
  else:
    return None
  if line.arrays[0].shape:
    return None
  values = [of(operand) for operand in line.operands]
  return None if None in values else int(operation(*values))
