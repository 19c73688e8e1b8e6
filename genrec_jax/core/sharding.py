"""Layouts of parameters and batches on a mesh, from regex rules."""

from collections.abc import Callable, Sequence
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten, unflatten
from genrec_jax.core.types import PyTree

Rules = Sequence[tuple[str, PartitionSpec]]

# In this order: with the slice first, XLA's partitioner (jax 0.10.2) returns
# wrong gradients, without a word, of two layers after one another whose kernels
# are split over ('data', 'model').
BATCH = PartitionSpec(("data", "slice"))
REPLICATED = PartitionSpec()
# Of NVIDIA, as `platform` names them.
GPUS = ("gpu", "cuda")


def specs(rules: Rules, tree: PyTree) -> PyTree:
  """Returns the tree of PartitionSpecs that the rules give a nested dict.

  Each leaf's path must fully match exactly one rule, whose spec must not be
  longer than the leaf's rank; each rule must match a leaf. Leaves need only
  `.shape`.

  Raises:
    ValueError: lists every leaf and rule that breaks this.
  """
  compiled = [re.compile(regex) for regex, _ in rules]
  unused = set(range(len(rules)))
  found: dict[str, PartitionSpec] = {}
  problems = []  # all of them are listed at once
  for path, leaf in flatten(tree).items():
    hits = [i for i, regex in enumerate(compiled) if regex.fullmatch(path)]
    unused.difference_update(hits)
    # None would replicate a large kernel in silence; two hide which one wins.
    if len(hits) != 1:
      named = " and ".join(repr(rules[i][0]) for i in hits) or "no rule"
      problems.append(f"{path} matches {named}")
      continue
    found[path] = rules[hits[0]][1]
    if len(found[path]) > len(leaf.shape):
      problems.append(f"{path}: {found[path]} is too long for {leaf.shape}")
  problems += [f"rule {rules[i][0]!r} matches nothing" for i in sorted(unused)]
  if problems:
    raise ValueError(
      listed("each parameter must match exactly one sharding rule:", problems)
    )
  return unflatten(found)


def specs_like_params(param_specs: PyTree, tree: PyTree) -> PyTree:
  """Returns specs of a tree that holds copies of the parameters' tree.

  Every subtree with the parameters' structure (Adam's moments, a TrainState's
  params) gets `param_specs`; every other leaf (step, counts) is replicated.
  """
  # Optimizers nest copies of the parameters at depths that only they know:
  # a copy is known by its structure.
  structure: Any = jax.tree.structure(param_specs)

  def same(node: PyTree) -> bool:
    return structure == jax.tree.structure(node)

  return jax.tree.map(
    lambda node: param_specs if same(node) else REPLICATED, tree, is_leaf=same
  )


def drop_axis(axis: str, spec_tree: PyTree) -> PyTree:
  """Returns the specs without one mesh axis: the leaves are whole along it."""

  def drop(entry: Any) -> Any:
    if isinstance(entry, tuple):  # one array axis over several mesh axes
      return tuple(name for name in entry if name != axis) or None
    return None if entry == axis else entry

  return jax.tree.map(lambda spec: PartitionSpec(*map(drop, spec)), spec_tree)


def divided(mesh: Mesh, spec_tree: PyTree, tree: PyTree) -> PyTree:
  """Returns the specs without the splits that the mesh cannot make evenly.

  For models that a mesh was not chosen for. An axis of a leaf that the mesh
  does not divide lies whole on each device.
  """
  by_path = flatten(tree)

  def whole(path: str, spec: PartitionSpec) -> PartitionSpec:
    # A spec may be shorter than the shape: the rest is whole anyway.
    sizes = zip(by_path[path].shape, spec, strict=False)
    return PartitionSpec(
      *(None if size % _parts(mesh, entry) else entry for size, entry in sizes)
    )

  flat = flatten(spec_tree)
  return unflatten({path: whole(path, spec) for path, spec in flat.items()})


def _parts(mesh: Mesh, entry: Any) -> int:
  """Returns the number of parts that an entry of a spec splits an axis in."""
  names = entry if isinstance(entry, tuple) else (entry,)
  # None splits nothing: the product of no sizes is 1.
  return math.prod(mesh.shape[name] for name in names if name)


def shardings(mesh: Mesh, spec_tree: PyTree) -> PyTree:
  """Returns the NamedSharding of each PartitionSpec in a tree."""
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), spec_tree)


def checked_shardings(mesh: Mesh, spec_tree: PyTree, tree: PyTree) -> PyTree:
  """Returns the shardings of a nested dict, if the mesh divides its leaves.

  Leaves need only `.shape`.

  Raises:
    UserError: lists the parameters whose axes the mesh does not divide.
  """
  by_path, problems = flatten(spec_tree), []
  for path, leaf in flatten(tree).items():
    for size, names in zip(leaf.shape, by_path[path], strict=False):
      parts = _parts(mesh, names)
      if size % parts:  # JAX makes even shards only
        problems.append(f"{path}{list(leaf.shape)}: {size} % {parts} != 0")
  if problems:
    raise UserError(
      listed(
        f"the mesh {dict(mesh.shape)} does not divide these parameters; choose"
        " mesh.data and mesh.model that do:",
        problems,
      )
    )
  return shardings(mesh, spec_tree)


def shard_params(mesh: Mesh, spec_tree: PyTree, tree: PyTree) -> PyTree:
  """Returns a nested dict of arrays, laid out on the mesh by their specs.

  Raises:
    UserError: lists the parameters whose axes the mesh does not divide.
  """
  return jax.device_put(tree, checked_shardings(mesh, spec_tree, tree))


def trace_with_mesh(mesh: Mesh, function: Callable) -> Callable:
  """Returns `function` traced under `mesh`, for `constrain_batch` to see it."""

  def traced(*args: Any) -> Any:
    # Abstract: the same function is compiled for devices that are not here.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args)

  # Compiled functions are known by their names, and a partial has none.
  traced.__name__ = getattr(function, "func", function).__name__
  return traced


def constrain_batch(x: jax.Array) -> jax.Array:
  """Constrains activations [B, ...] to the layout of a batch.

  Outside `trace_with_mesh` it returns them as they are.

  Parameters that are split over 'data' then come to the rows that need them.
  Left to choose, XLA splits the width as the parameters are, and moves the rows
  of all devices to every one of them.
  """
  return constrain(x, BATCH)


def constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
  """Constrains an array to a layout; outside `trace_with_mesh` to none."""
  # The models are written once for one device and for many.
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec)


def gathered(rules: Rules, layer: PyTree, dtype: Any) -> PyTree:
  """Returns one layer of a stack, its kernels whole along 'data'.

  Left to choose, XLA multiplies by one device's part of a kernel after another
  and adds up the products, in `dtype` and in memory: on TPUs with 16 parts most
  of what a layer reads and writes was that.

  Args:
    rules: of the stack, each spec with the axis [L] first.
    layer: without that axis; a nested dict. What no rule fits, such as
      adapters, is returned as it is.
    dtype: that the kernels are cast to first, as half as much travels then.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return layer
  flat = flatten(layer)
  for path, leaf in flat.items():
    for regex, spec in rules:
      if "data" in spec and re.fullmatch(regex, path):
        flat[path] = _whole(leaf.astype(dtype), PartitionSpec(*spec[1:]))
  return unflatten(flat)


def _gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
  """Gathers an array of a layout along 'data'."""
  return constrain(x, drop_axis("data", spec))


_whole = jax.custom_vjp(_gather, nondiff_argnums=(1,))
_whole.defvjp(
  lambda x, spec: (_gather(x, spec), None),
  # A device needs the sum of its own part alone.
  lambda spec, _, gradient: (constrain(gradient, spec),),
)


def platform() -> str:
  """Returns what is compiled for: 'cpu', 'gpu', 'cuda', 'tpu'.

  The devices of the mesh, which need not be there; without one, those of this
  process.
  """
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_shards() -> int:
  """Returns the parts that `BATCH` splits a batch in where code is traced."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(name, 1) for name in BATCH[0])


def put_batch(mesh: Mesh, batch: PyTree) -> PyTree:
  """Returns global arrays, split by `BATCH`, of this process's rows.

  Args:
    mesh: of all processes.
    batch: arrays [B / processes, ...], numpy.

  Returns:
    Arrays [B, ...].
  """
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
  )
