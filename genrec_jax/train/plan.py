"""Plan of a step: models, mesh, layout and optimizer, from shapes alone.

Training and tools/compile_check share it: what is checked is what a run
compiles.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.models import clip as clips
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.runtime import compiler
from genrec_jax.sampling import Titles
from genrec_jax.train import memory, optimizers, trainable


class Plan(NamedTuple):
  """All that a step is compiled from; not one weight of it is in memory.

  `params`, `state` and `frozen` hold shapes, types and shardings.
  """

  mesh: jax.sharding.Mesh
  model: Generator
  clip: Clip
  encoders: Mapping[str, ImageEncoder]  # besides CLIP, of which rewards are
  optimizer: optax.GradientTransformation
  params: PyTree  # of a whole checkpoint
  state: TrainState
  # 'generator_rest', what is not trained, 'clip', and 'encoders', if any
  frozen: PyTree
  adapters: Callable[[jax.Array], PyTree] | None  # initialises; None: no LoRA
  to_rollout_layout: Callable[[PyTree], PyTree]  # for the decode loop
  titles: Titles | None  # that answers begin with; None: images alone

  @property
  def answer_tokens(self) -> int:
    """Tokens of an answer, of a title that is as long as can be."""
    words = 0
    if self.titles is not None:
      words = self.titles.max_tokens + len(self.model.image_begin)
    return words + self.model.image_tokens

  def put(self, batch: PyTree) -> PyTree:
    """Puts this process's rows of a batch on the mesh."""
    return sharding.put_batch(self.mesh, batch)

  def jit(self, step: Callable) -> jax.stages.Wrapped:
    """Compiles (state, frozen, batch) -> (state, metrics)."""
    layout = shardings_of(self.state)
    whole = jax.NamedSharding(self.mesh, sharding.REPLICATED)
    return jax.jit(
      sharding.trace_with_mesh(self.mesh, step),
      donate_argnums=0,  # the state: the next one takes its memory
      # Unread arguments still occupy device memory, so XLA's memory plan must
      # include them.
      keep_unused=True,
      out_shardings=(layout, whole),
      compiler_options=compiler.options(self.mesh.devices.flat[0].platform),
    )


def make_plan(
  config: Any,
  *,
  model: Generator,
  rules: sharding.Rules,
  clip: Clip,
  encoders: Mapping[str, ImageEncoder] | None = None,
  end_ids: Sequence[int] = (),
  devices: Sequence[Any] | None = None,
) -> Plan:
  """Lays a config's models out on a mesh.

  Args:
    config: of an SFT or RL run.
    model: the generator.
    rules: of its parameters.
    clip: the reward model.
    encoders: besides it, by name, see `reward_encoders`.
    end_ids: tokens that end an answer in words.
    devices: of the mesh, real or only described; all real ones if None.

  Raises:
    UserError: a batch, schedule or mesh that does not fit.
  """
  _check_schedule(config)
  mesh = _make_mesh(config, devices)
  # Shapes only: a model of any size is laid out on a laptop.
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  specs = sharding.specs(rules, shapes)
  titles = Titles.from_options(config.model, model, end_ids)
  # Refuses what the mesh cannot divide.
  sharding.checked_shardings(mesh, specs, shapes)
  parts = trainable.partition(
    model,
    shapes,
    specs,
    patterns=config.model.trainable,
    lora_rank=config.model.lora_rank,
    words=titles is not None,
  )
  # RL's inner epochs share a step's learning rate.
  optimizer = optimizers.adamw(
    **config.optim,
    updates_per_step=config.rl.inner_epochs if config.task == "rl" else 1,
  )
  state = jax.eval_shape(
    lambda params: memory.begin(
      TrainState(jnp.int32(0), params, optimizer.init(params)),
      memory.Memory.of(config.get("rl")),
      functools.partial(trainable.cast_frozen, model),
    ),
    parts.trained,
  )
  # Adam's moments, and copies, lie as the parameters that they are of.
  state_specs = sharding.specs_like_params(parts.trained_specs, state)
  # With adapters a checkpoint's parameters are all frozen.
  whole = (
    parts.rest if parts.adapters else tree.merge(parts.trained, parts.rest)
  )
  return Plan(
    mesh=mesh,
    model=model,
    clip=clip,
    encoders=encoders or {},
    optimizer=optimizer,
    params=_abstract(mesh, whole, specs),
    state=_abstract(mesh, state, state_specs),
    frozen={
      "generator_rest": _abstract(mesh, parts.rest, parts.rest_specs),
      "clip": _abstract_encoder(mesh, clip),
    }
    | _abstract_encoders(mesh, encoders or {}),
    adapters=parts.adapters,
    to_rollout_layout=_rollout_layout(
      mesh, tree.merge(parts.trained_specs, parts.rest_specs)
    ),
    titles=titles,
  )


def _check_schedule(config: Any) -> None:
  if 0 < config.optim.decay_steps < config.train.steps:
    raise UserError(
      f"optim.decay_steps={config.optim.decay_steps}: nothing is learned from"
      f" there to train.steps={config.train.steps}; give both the same value,"
      " or optim.decay_steps=0 for a learning rate that stays"
    )


def _make_mesh(config: Any, devices: Sequence[Any] | None) -> jax.sharding.Mesh:
  """Returns the mesh, over which training and evaluation batches divide."""
  mesh = mesh_lib.make_mesh(**config.mesh, devices=devices)
  mesh_lib.check_batch(
    mesh,
    config.data.microbatches,
    **{"data.batch_size": config.data.batch_size},
  )
  mesh_lib.check_batch(mesh, **{"eval.batch_size": config.eval.batch_size})
  return mesh


def _rollout_layout(
  mesh: jax.sharding.Mesh, specs: PyTree
) -> Callable[[PyTree], PyTree]:
  """Returns what gathers parameters over the data axis, in the graph.

  A decode loop reads every weight once per code: left sharded over the data
  axis, XLA would gather them again in each iteration.
  """
  rollout = sharding.shardings(mesh, sharding.drop_axis("data", specs))
  return functools.partial(jax.lax.with_sharding_constraint, shardings=rollout)


def _abstract_encoders(
  mesh: jax.sharding.Mesh, encoders: Mapping[str, ImageEncoder]
) -> dict[str, PyTree]:
  found = {name: _abstract_encoder(mesh, x) for name, x in encoders.items()}
  return {"encoders": found} if found else {}


def _abstract_encoder(mesh: jax.sharding.Mesh, encoder: ImageEncoder) -> PyTree:
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  if not isinstance(encoder, Clip):  # of the others there are no large ones
    specs = jax.tree.map(lambda _: sharding.REPLICATED, shapes)
    return _abstract(mesh, shapes, specs)
  # CLIP's sizes are the user's choice: an axis that the mesh does not divide
  # is kept whole.
  specs = sharding.divided(mesh, sharding.specs(clips.RULES, shapes), shapes)
  return _abstract(mesh, shapes, specs)


def _abstract(mesh: jax.sharding.Mesh, shapes: PyTree, specs: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf, spec: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec)
    ),
    shapes,
    specs,
  )


def shardings_of(abstract: PyTree) -> PyTree:
  """Returns the shardings of a tree of shapes, types and shardings."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def types_of(abstract: PyTree) -> PyTree:
  """Returns the types of a tree of shapes, types and shardings."""
  return jax.tree.map(lambda leaf: leaf.dtype, abstract)
