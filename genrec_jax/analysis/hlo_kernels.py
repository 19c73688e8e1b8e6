"""Cost of kernels that XLA calls and does not see into: attention by splash.

`nn/splash.py` names how many blocks of its mask a kernel computes, as
'splash_100x512': 100 pairs of a block of queries and one of keys, 512 tokens
each. FLOPs and what is read again follow from that.
"""

import re
from typing import NamedTuple

from genrec_jax.analysis.hlo import Array
from genrec_jax.analysis.hlo_walk import Step

_SCOPE = re.compile(r"splash_(\d+)x(\d+)\b")
# Products of a block's scores or of as many: forwards with keys and values;
# backwards the scores again, and the gradients of values, scores, keys and
# queries.
_PRODUCTS = {"fwd": 2, "dkv": 5}
# What each pair of blocks reads that the kernel's operands count once: forwards
# keys and values, backwards queries and the gradient of what they attended to.
_READ = 2


class _Splash(NamedTuple):
  products: int
  pairs: int  # of blocks, of one head
  block: int  # tokens
  queries: Array  # [..., heads, N, H]


def flops(step: Step) -> int:
  """Counts the operations of a kernel's products; 0: it is none of ours."""
  found = _splash(step)
  if found is None:
    return 0
  *rows, _, width = found.queries.shape
  count = found.products * 2 * found.pairs * found.block**2 * width
  for number in rows:
    count *= number
  return count


def reads_again(step: Step) -> int:
  """Counts the bytes a kernel reads beyond each of its operands once."""
  found = _splash(step)
  if found is None:
    return 0
  *rows, length, width = found.queries.shape
  itemsize = found.queries.nbytes // found.queries.size
  # The first block of each row of pairs is what the operands count.
  count = max(found.pairs - length // found.block, 0)
  count *= _READ * found.block * width * itemsize
  for number in rows:
    count *= number
  return count


def _splash(step: Step) -> _Splash | None:
  line = step.instruction
  scope = _SCOPE.search(line.op_name)
  phase = re.search(r"splash_m[hq]a_(fwd|dkv)", line.name)
  if line.opcode != "custom-call" or not scope or not phase:
    return None
  # Queries come first of all that has the width of a head.
  arrays = [x for one in step.computation.operands(line) for x in one.arrays]
  queries = next(x for x in arrays if len(x.shape) >= 3 and x.size > 1024)
  pairs, block = int(scope[1]), int(scope[2])
  return _Splash(_PRODUCTS[phase[1]], pairs, block, queries)
