"""HLO: the text of a compiled program, read into its instructions.

The text is that of `compiled.as_text()`, after partitioning, so all numbers are
those of one device.

    program = hlo.parse(jax.jit(f).lower(*args).compile().as_text())
    hlo_cost.flops(program), hlo_cost.memory_bytes(program)
    [c for c in hlo_collectives.find(program) if c.within("decode")]
"""

import dataclasses
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # others end in their bits
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
# What Pallas says of a kernel: lines in the midst of an instruction's.
_KERNEL = re.compile(r"frontend_attributes=\{kernel_metadata=\{\n.*\n\}\},? ?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
  r"\b(calls|body|condition|to_apply|branch_computations|true_computation"
  r"|false_computation|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


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

  def attribute(self, name: str) -> str:
    """Returns the word behind `name=`.

    Raises:
      ValueError: the instruction has no such attribute.
    """
    found = re.search(rf"\b{name}=(\w+)", self.attributes)
    if not found:
      raise ValueError(f"{self.name}, {self.opcode}, has no {name}")
    return found[1]


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


def parse(text: str) -> Program:
  """Reads the text of a compiled module.

  Raises:
    ValueError: there is no entry computation.
  """
  computations: dict[str, Computation] = {}
  lines: dict[str, Instruction] = {}
  entry, name, root = None, None, ""
  for line in _KERNEL.sub("", text).splitlines():
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
