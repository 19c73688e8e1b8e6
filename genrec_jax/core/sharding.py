"""A mesh, and the regex rules that lay parameters out on it."""

from collections.abc import Sequence
import math
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.tree import flatten, unflatten
from genrec_jax.core.types import PyTree

Rules = Sequence[tuple[str, PartitionSpec]]

AXES = ("data", "model")
BATCH = PartitionSpec("data")
REPLICATED = PartitionSpec()


def make_mesh(
  data: int = -1, model: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """Returns a mesh with axes ('data', 'model') over the devices.

  Args:
    data: size of the axis over examples and FSDP shards; -1 takes what
      `model` leaves.
    model: size of the axis over tensor-parallel shards.
    devices: all devices if None.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  count = len(devices or jax.devices())
  size = count // model if data == -1 and model > 0 else data
  if min(size, model) < 1 or size * model != count:
    raise UserError(
      f"mesh.data={data} x mesh.model={model} does not fit {count} device(s):"
      " their product must be the number of devices; set mesh.data=-1 to take"
      " what mesh.model leaves"
    )
  return jax.make_mesh(
    (size, model), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
  )


def check_batch(mesh: Mesh, **sizes: int) -> None:
  """Refuses batch sizes that the data axis does not divide, all at once.

  Raises:
    UserError: names each size (say `batch_size=6`) that does not fit.
  """
  axis = mesh.shape["data"]
  problems = [f"{k}={v}" for k, v in sizes.items() if v < 1 or v % axis]
  if problems:
    raise UserError(
      f"batch not divisible by devices: {', '.join(problems)}; the mesh's data"
      f" axis has {axis} device(s): use a multiple of {axis}, or fewer devices"
    )


def specs(rules: Rules, tree: PyTree) -> PyTree:
  """Returns the tree of PartitionSpecs that the rules give a nested dict.

  Each leaf's path must fully match exactly one rule, whose spec must not be
  longer than the leaf's rank; each rule must match a leaf. Leaves need only
  `.shape`.

  Raises:
    ValueError: lists every leaf and rule that breaks this.
  """
  compiled = [re.compile(regex) for regex, _ in rules]
  unused, found, problems = set(range(len(rules))), {}, []
  for path, leaf in flatten(tree).items():
    hits = [i for i, regex in enumerate(compiled) if regex.fullmatch(path)]
    unused.difference_update(hits)
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


def like(param_specs: PyTree, tree: PyTree) -> PyTree:
  """Returns specs for a tree that holds copies of the parameters' tree.

  Every subtree with the parameters' structure (Adam's moments, a TrainState's
  params) gets `param_specs`; every other leaf (step, counts) is replicated.
  """
  structure = jax.tree.structure(param_specs)

  def same(node: PyTree) -> bool:
    return jax.tree.structure(node) == structure

  return jax.tree.map(
    lambda node: param_specs if same(node) else REPLICATED, tree, is_leaf=same
  )


def without(axis: str, spec_tree: PyTree) -> PyTree:
  """Returns the specs with one mesh axis gathered, as a rollout wants."""

  def drop(entry: Any) -> Any:
    if isinstance(entry, tuple):
      return tuple(name for name in entry if name != axis) or None
    return None if entry == axis else entry

  return jax.tree.map(lambda spec: PartitionSpec(*map(drop, spec)), spec_tree)


def shardings(mesh: Mesh, spec_tree: PyTree) -> PyTree:
  """Returns the NamedSharding of each PartitionSpec in a tree."""
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), spec_tree)


def layout(mesh: Mesh, spec_tree: PyTree, tree: PyTree) -> PyTree:
  """Returns the shardings of a nested dict's leaves, real or abstract.

  Raises:
    UserError: lists the parameters whose axes the mesh does not divide.
  """
  by_path, problems = flatten(spec_tree), []
  for path, leaf in flatten(tree).items():
    for size, names in zip(leaf.shape, by_path[path], strict=False):
      names = names if isinstance(names, tuple) else (names,)
      parts = math.prod(mesh.shape[name] for name in names if name)
      if size % parts:
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


def place(mesh: Mesh, spec_tree: PyTree, tree: PyTree) -> PyTree:
  """Puts a nested dict of arrays on the mesh; see `layout`."""
  return jax.device_put(tree, layout(mesh, spec_tree, tree))


def put_batch(mesh: Mesh, batch: PyTree) -> PyTree:
  """Makes global arrays, split over the data axis, of this process's rows."""
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
  )
