"""Low-rank adapters (LoRA) next to frozen kernels; arXiv 2106.09685.

A kernel [L, in, out] of a stack of layers has two leaves next to it, `lora_a`
[L, in, R] and `lora_b` [L, R, out]; `layers.Linear` computes x (W + 2 A B)
without ever forming the sum, and x W where there are none.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree

KERNEL, A, B = "kernel", "lora_a", "lora_b"
# alpha / R of the paper's section 4.1. No option: alpha grows with R, so that
# a learning rate suits every rank, and with Adam another ratio is much the same
# as another learning rate (as is said there).
SCALE = 2.0


def kernels(
  params: Mapping[str, Any], trainable: Sequence[str], adaptable: str
) -> tree.Tree:
  """Returns the subtree of the kernels that get adapters.

  Args:
    params: the model's, or any tree of the same paths.
    trainable: regular expressions, see `tree.select`.
    adaptable: regular expression of the whole paths of kernels that may have
      adapters; of what `trainable` names they get them, the rest is frozen.

  Raises:
    UserError: a pattern does not fit, or none of them names such a kernel.
  """
  named = tree.flatten(tree.select(params, trainable)[0])
  # What cannot have adapters is frozen: norms and embeddings, for example.
  found = {k: v for k, v in named.items() if re.fullmatch(adaptable, k)}
  if not found:
    raise UserError(
      f"model.trainable={tuple(trainable)} names no kernel that can have LoRA"
      f" adapters: expected some of {adaptable}; name them, or train what is"
      " named in full with model.lora_rank=0"
    )
  return tree.unflatten(found)


def init(key: jax.Array, kernel_tree: PyTree, rank: int) -> PyTree:
  """Returns adapters that change nothing yet: A is random, B zero; float32.

  Args:
    key: PRNG key.
    kernel_tree: kernels [L, in, out], see `kernels`; only shapes are read.
    rank: R, of A [L, in, R] and B [L, R, out].

  Raises:
    UserError: the rank is none, or saves nothing over a whole kernel.
  """
  flat = tree.flatten(kernel_tree)
  problems = [
    f"{path}{list(leaf.shape)}"
    for path, leaf in flat.items()
    if not 0 < rank < min(leaf.shape[1:])
  ]
  if problems:
    raise UserError(
      listed(
        f"model.lora_rank={rank}: expected at least 1 and less than both sides"
        " of these kernels; 0 trains in full:",
        problems,
      )
    )
  adapters = {}
  # By name: a draw must not depend on the order in which a tree was built.
  for i, path in enumerate(sorted(flat)):
    layers, width, features = flat[path].shape
    # x A is then of the size of x.
    draw = jax.random.fold_in(key, i)
    a = width**-0.5 * jax.random.normal(draw, (layers, width, rank))
    adapters[sibling(path, A)] = a
    adapters[sibling(path, B)] = jnp.zeros((layers, rank, features))
  return tree.unflatten(adapters)


def specs(kernel_specs: PyTree) -> PyTree:
  """Returns the adapters' PartitionSpecs: each side as the kernel's, R whole.

  Args:
    kernel_specs: of `kernels`, such as P(None, 'data', 'model').
  """
  found = {}
  for path, spec in tree.flatten(kernel_specs).items():
    # Trailing axes that are whole may be left out of a spec.
    layers, rows, columns = (*spec, None, None, None)[:3]
    found[sibling(path, A)] = PartitionSpec(layers, rows, None)
    found[sibling(path, B)] = PartitionSpec(layers, None, columns)
  return tree.unflatten(found)


def without(params: Mapping[str, Any]) -> tree.Tree:
  """Returns the parameters that are no adapters: the model as it was."""
  flat = tree.flatten(params)
  return tree.unflatten(
    {k: v for k, v in flat.items() if k.rpartition("/")[2] not in (A, B)}
  )


def sibling(path: str, name: str) -> str:
  """Returns the path of a leaf's sibling."""
  return f"{path.rpartition('/')[0]}/{name}"
