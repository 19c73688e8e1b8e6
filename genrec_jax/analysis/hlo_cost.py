"""Cost of a compiled program: FLOPs and bytes, loops multiplied out.

XLA's own cost analysis counts the body of a loop once; here everything is
multiplied by the trip counts of the loops around it.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from genrec_jax.analysis import hlo_kernels
from genrec_jax.analysis.hlo import (
  Array,
  Computation,
  Instruction,
  Program,
  total_bytes,
)
from genrec_jax.analysis.hlo_walk import Step, walk

# Instructions that move no bytes: names for parts of others, or never run.
_FREE = {
  "after-all",
  "async-start",
  "async-update",
  "bitcast",
  "call",
  "conditional",
  "constant",
  "domain",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "partition-id",
  "replica-id",
  "tuple",
  "while",
}

# Instructions that read only a part of their first operand.
_PARTIAL = ("dynamic-slice", "slice", "gather")
# Instructions that write a part of their first operand, and which operand
# holds that part.
_UPDATES = {"dynamic-update-slice": 1, "scatter": -1}
# Asynchronous ones whose result lists what they read next to what they write.
_LIST_OPERANDS = (
  "all-gather-start",
  "collective-permute-start",
  "copy-start",
  "dynamic-slice-start",
  "slice-start",
)


def flops(program: Program, scope: str | None = None) -> int:
  """Counts the operations of matrix products and convolutions.

  A multiplication and its addition are two. Other instructions are not
  counted: on every accelerator they are bound by memory.

  Args:
    program: see `hlo.parse`.
    scope: only in the loop of `jax.named_scope(scope)`.
  """
  return sum(
    step_flops(step) for step in walk(program) if _counted(step, scope)
  )


def step_flops(step: Step) -> int:
  """Counts the operations of one instruction, as often as it runs."""
  counts = {
    "dot": _dot_flops,
    "convolution": _convolution_flops,
    "custom-call": hlo_kernels.flops,
  }
  count = counts.get(step.instruction.opcode)
  return step.times * count(step) if count else 0


def memory_bytes(program: Program, scope: str | None = None) -> int:
  """Counts the bytes that instructions read from and write to main memory.

  Each instruction outside fusions reads its operands and writes its result; of
  an array that is sliced, gathered from or updated in place, only that part.
  Caches are not modelled, so this is what a device with none would move.

  Args:
    program: see `hlo.parse`.
    scope: only in the loop of `jax.named_scope(scope)`.
  """
  return sum(
    step_bytes(program, step) for step in walk(program) if _counted(step, scope)
  )


def step_bytes(program: Program, step: Step) -> int:
  """Counts the bytes of one instruction, as often as it runs; 0 in fusions."""
  return 0 if step.fused else step.times * _traffic(program, step)


def _counted(step: Step, scope: str | None) -> bool:
  return scope is None or step.within(scope)


def _dimensions(line: Instruction, key: str) -> list[int]:
  found = re.search(rf"\b{key}=\{{([\d,]*)\}}", line.attributes)
  return [int(n) for n in found[1].split(",") if n] if found else []


def _dot_flops(step: Step) -> int:
  line = step.instruction
  left = step.computation.operands(line)[0].arrays[0]
  # Products per element of the result: the contracted sizes.
  depth = math.prod(
    left.shape[i] for i in _dimensions(line, "lhs_contracting_dims")
  )
  return 2 * line.arrays[0].size * depth


def _convolution_flops(step: Step) -> int:
  """Counts the products with real inputs, as XLA's own analysis does.

  TPUs write batched matrix products as convolutions over windows that are
  nearly all padding or holes, which cost nothing.
  """
  line = step.instruction
  left, right = (x.arrays[0] for x in step.computation.operands(line)[:2])
  # Which axis is batch, feature or spatial: 'b01f_01io->b01f'.
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
  if labels is None:
    raise ValueError(f"{line.name}: a convolution without dim_labels")
  lhs, rhs, out = labels.groups()
  groups = re.search(r"batch_group_count=(\d+)", line.attributes)
  count = left.shape[lhs.index("b")] // (int(groups[1]) if groups else 1)
  count *= right.shape[rhs.index("i")] * right.shape[rhs.index("o")]
  window = _window(line.attributes, len(lhs) - 2)
  for d in range(len(lhs) - 2):
    count *= _valid_positions(
      left.shape[lhs.index(str(d))],
      right.shape[rhs.index(str(d))],
      line.arrays[0].shape[out.index(str(d))],
      *(sizes[d] for sizes in window.values()),
    )
  return 2 * count


def _window(attributes: str, rank: int) -> dict[str, list[int]]:
  """Returns each spatial dimension's stride, low padding and dilations."""
  window = {"stride": [1] * rank, "pad": [0] * rank}
  window |= {"lhs_dilate": [1] * rank, "rhs_dilate": [1] * rank}
  found = re.search(r"window=\{([^}]*)\}", attributes)
  for key, value in re.findall(r"(\w+)=(\S+)", found[1] if found else ""):
    if key in window:
      window[key] = [int(part.split("_")[0]) for part in value.split("x")]
  return window


@functools.cache
def _valid_positions(
  size: int,
  kernel: int,
  out: int,
  stride: int,
  pad: int,
  lhs_dilate: int,
  rhs_dilate: int,
) -> int:
  """Counts pairs of output and kernel places that meet an input element."""
  places = np.arange(out)[:, None] * stride - pad
  places = places + np.arange(kernel)[None] * rhs_dilate
  valid = (places >= 0) & (places % lhs_dilate == 0)
  return int(np.sum(valid & (places // lhs_dilate < size)))


def _main(arrays: tuple[Array, ...]) -> int:
  """Returns the bytes of those arrays that lie in the main memory."""
  return sum(array.nbytes for array in arrays if array.space == 0)


def _traffic(program: Program, step: Step) -> int:
  """Returns the bytes that one instruction moves, fusions as a whole."""
  line, computation = step.instruction, step.computation
  if line.opcode in _FREE or line.opcode.endswith("-done"):
    return 0
  operands = computation.operands(line)
  if line.opcode == "fusion":
    return _fusion_traffic(program, line, operands)
  arrays = _results(line, operands)
  opcode = line.opcode.removesuffix("-start")  # asynchronous ones
  written = _main(arrays)
  if opcode in _PARTIAL:
    return min(_main(operands[0].arrays), arrays[0].nbytes) + written
  if opcode in _UPDATES:
    # The update is read, and written into the array that it is put in.
    return 2 * _main(operands[_UPDATES[opcode]].arrays)
  read = sum(_main(x.arrays) for x in operands)
  return read + written + hlo_kernels.reads_again(step)


def _results(
  line: Instruction, operands: list[Instruction]
) -> tuple[Array, ...]:
  """Returns what an instruction writes; some list what they read, too."""
  left = list(line.arrays)
  if line.opcode in _LIST_OPERANDS:
    for array in (array for x in operands for array in x.arrays):
      if array in left:
        left.remove(array)
  return tuple(left)


def _fusion_traffic(
  program: Program, line: Instruction, operands: list[Instruction]
) -> int:
  """Returns a fusion's bytes: of operands only what its inside touches."""
  inner = _inlined(program, line.called["calls"][0])
  users: dict[str, list[Instruction]] = {}
  for user in inner.instructions.values():
    for name in user.operands:
      users.setdefault(name, []).append(user)
  total = 0.0
  returned = _returned(inner)
  if len(returned) != len(line.arrays):  # one instruction gives several
    returned = (inner.root,) * len(line.arrays)
  for array, name in zip(line.arrays, returned, strict=True):
    if array.space == 0:
      update = _written_in_place(inner, name)
      total += array.nbytes if update is None else update
  for parameter in inner.instructions.values():
    if parameter.opcode == "parameter":
      operand = operands[int(parameter.literal)]
      total += min(
        _main(operand.arrays), _touched(inner, users, parameter.name)
      )
  return int(total)


def _inlined(
  program: Program,
  name: str,
  prefix: str = "",
  arguments: tuple[str, ...] | None = None,
) -> Computation:
  """Returns a computation with the fusions in it opened.

  libtpu puts the slices that a product reads into fusions of their own.

  Args:
    program: what the computation is of.
    name: of the computation.
    prefix: of the names in it, which are unique in a computation only.
    arguments: names of what it is given, in place of its parameters.
  """
  lines: dict[str, Instruction] = {}
  called: dict[str, str] = {}  # name in the computation -> in the result
  outer = program.computations[name]
  for line in outer.instructions.values():
    own = prefix + line.name
    operands = tuple(called[operand] for operand in line.operands)
    if line.opcode == "parameter" and arguments is not None:
      own = arguments[int(line.literal)]
    elif line.opcode == "fusion":
      inner = _inlined(program, line.called["calls"][0], own + "/", operands)
      lines |= inner.instructions
      own = inner.root
    elif (
      line.opcode == "get-tuple-element"
      and lines[operands[0]].opcode == "tuple"
    ):
      index = int(line.attribute("index"))
      own = lines[operands[0]].operands[index]
    else:
      lines[own] = dataclasses.replace(line, name=own, operands=operands)
    called[line.name] = own
  return Computation(name, lines, called[outer.root])


def _returned(inner: Computation) -> tuple[str, ...]:
  """Returns the names of a fusion's results."""
  root = inner.instructions[inner.root]
  return root.operands if root.opcode == "tuple" else (inner.root,)


def _source(inner: Computation, name: str) -> Instruction:
  """Returns an instruction, seen through bitcasts."""
  line = inner.instructions[name]
  while line.opcode == "bitcast":
    line = inner.instructions[line.operands[0]]
  return line


def _written_in_place(inner: Computation, name: str) -> int | None:
  """Returns the bytes of the parts of a parameter that a fusion writes.

  None: the result is no parameter of which parts are written.
  """
  total = 0
  line = _source(inner, name)
  while line.opcode in _UPDATES:
    update = inner.operands(line)[_UPDATES[line.opcode]]
    total += total_bytes(update.arrays)
    line = _source(inner, line.operands[0])
  return total if line.opcode == "parameter" else None


def _touched(
  inner: Computation, users: dict[str, list[Instruction]], name: str
) -> float:
  """Returns the bytes that a fusion's users of an array read of it."""
  total = 0.0
  for user in users.get(name, []):
    first = user.operands[0] == name and name not in user.operands[1:]
    if user.opcode == "bitcast":
      total += _touched(inner, users, user.name)
    elif user.opcode in _PARTIAL and first:
      total += total_bytes(user.arrays)
    elif user.opcode in _UPDATES and first:
      total += _touched(inner, users, user.name)
    elif user.opcode == "tuple" and user.name == inner.root:
      total += 0.0
    else:  # reads all of it; the caller takes the array's size
      return math.inf
  return total
