"""What SFT and RL share: models, data, mesh and state, built from a config."""

from collections.abc import Callable, Sequence
import functools
import re
from typing import Any, NamedTuple

from clu import parameter_overview
import jax
import jax.numpy as jnp
import optax

from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.data import stream, windows
from genrec_jax.evals import calibration, lineage, opening, results
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.evals.judge import Judge
from genrec_jax.hf import locate
from genrec_jax.models import clip as clips
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.nn import lora
from genrec_jax.runtime import compiler, distributed
from genrec_jax.sampling import Sampling
from genrec_jax.train import loop, optimizers


class Plan(NamedTuple):
  """All that a step is compiled from; not one weight of it is in memory."""

  mesh: jax.sharding.Mesh
  model: Generator
  clip: Clip
  optimizer: optax.GradientTransformation
  params: PyTree  # of a whole checkpoint: shapes, types and shardings
  state: TrainState  # the same
  frozen: PyTree  # the same, of 'generator', what is not trained, and 'clip'
  adapters: Callable[[jax.Array], PyTree] | None  # draws them; None: no LoRA
  to_rollout_layout: Callable[[PyTree], PyTree]  # for the decode loop

  def put(self, batch: PyTree) -> PyTree:
    """Puts this process's rows of a batch on the mesh."""
    return sharding.put_batch(self.mesh, batch)

  def jit(self, step: Callable) -> Callable:
    """Compiles (state, frozen, batch) -> (state, metrics)."""
    layout = _shardings(self.state)
    whole = jax.NamedSharding(self.mesh, sharding.REPLICATED)
    return jax.jit(
      sharding.trace_with_mesh(self.mesh, step),
      donate_argnums=0,
      # What a step does not read lies in memory too, and the compiler that
      # makes the rest fit has to know it.
      keep_unused=True,
      out_shardings=(layout, whole),
      compiler_options=compiler.options(self.mesh.devices.flat[0].platform),
    )


class Parts(NamedTuple):
  """Everything that a run is made of; arrays are on the mesh."""

  plan: Plan
  state: TrainState
  frozen: PyTree
  iterator: Any
  evaluator: Evaluator
  rows: list[tuple[str, Callable[[], PyTree]]]  # models to compare with


def make_plan(
  config,
  *,
  model: Generator,
  rules: sharding.Rules,
  clip: Clip,
  devices: Sequence[Any] | None = None,
) -> Plan:
  """Lays a config's models out on a mesh.

  Args:
    config: of an SFT or RL run.
    model: the generator.
    rules: of its parameters.
    clip: the reward model.
    devices: of the mesh, real or only described; all real ones if None.

  Raises:
    UserError: a batch, schedule or mesh that does not fit.
  """
  if 0 < config.optim.decay_steps < config.train.steps:
    raise UserError(
      f"optim.decay_steps={config.optim.decay_steps}: nothing is learned from"
      f" there to train.steps={config.train.steps}; give both the same value,"
      " or optim.decay_steps=0 for a learning rate that stays"
    )
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  sharding.check_batch(
    mesh,
    config.data.microbatches,
    **{"data.batch_size": config.data.batch_size},
  )
  sharding.check_batch(mesh, **{"eval.batch_size": config.eval.batch_size})
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  specs = sharding.specs(rules, shapes)
  # Refuses what the mesh cannot divide.
  sharding.checked_shardings(mesh, specs, shapes)
  patterns, rank = config.model.trainable, config.model.lora_rank
  adapters = None
  trainable, rest = _learnable(model, shapes, patterns)
  trained, still = _learnable(model, specs, patterns)
  if rank:
    adapted = functools.partial(
      lora.kernels, trainable=patterns, adaptable=model.adaptable
    )
    adapters = functools.partial(
      lora.init, kernel_tree=adapted(shapes), rank=rank
    )
    trainable = jax.eval_shape(adapters, jax.random.key(0))
    trained = lora.specs(adapted(specs))
    rest, still = shapes, specs
  rest = jax.eval_shape(functools.partial(as_used, model), rest)
  optimizer = optimizers.adamw(
    **config.optim,
    updates_per_step=config.rl.inner_epochs if config.task == "rl" else 1,
  )
  state = TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params=trainable,
    opt_state=jax.eval_shape(optimizer.init, trainable),
  )
  judge = jax.eval_shape(clip.init, jax.random.key(0))
  judge_specs = sharding.specs(clips.RULES, judge)
  rollout = sharding.drop_axis("data", tree.merge(trained, still))
  rollout = sharding.shardings(mesh, rollout)
  return Plan(
    mesh=mesh,
    model=model,
    clip=clip,
    optimizer=optimizer,
    params=_abstract(
      mesh, rest if rank else tree.merge(trainable, rest), specs
    ),
    state=_abstract(mesh, state, sharding.specs_like_params(trained, state)),
    frozen={
      "generator_rest": _abstract(mesh, rest, still),
      "clip": _abstract(
        mesh, judge, sharding.divided(mesh, judge_specs, judge)
      ),
    },
    adapters=adapters,
    to_rollout_layout=functools.partial(
      jax.lax.with_sharding_constraint, shardings=rollout
    ),
  )


def _learnable(
  model: Generator, params: PyTree, patterns: Sequence[str]
) -> tuple[PyTree, PyTree]:
  """Splits as `tree.select`, but what can have no gradient is not trained.

  It would only take memory, and rot under weight decay.

  Raises:
    UserError: a pattern fits nothing, or nothing that has a gradient.
  """

  def idle(path: str) -> bool:
    return re.fullmatch(model.without_gradient, path) is not None

  named = tree.flatten(tree.select(params, patterns)[0])
  problems = [
    pattern
    for pattern in patterns
    if all(map(idle, tree.flatten(tree.select(params, [pattern])[0])))
  ]
  if problems:
    raise UserError(
      listed(
        "model.trainable names parameters that no image code depends on, so"
        " they have no gradient (the text's head, the image tokenizer): leave"
        " out",
        problems,
      )
    )
  flat = tree.flatten(params)
  learn = {path for path in named if not idle(path)}
  return (
    tree.unflatten({k: v for k, v in flat.items() if k in learn}),
    tree.unflatten({k: v for k, v in flat.items() if k not in learn}),
  )


def as_used(model: Generator, params: PyTree) -> PyTree:
  """Gives frozen parameters the type that every use of them casts to.

  In bfloat16 they are half as large, and nothing that is computed changes.
  """
  cast = tree.flatten(model.cast_params(params))
  flat = tree.flatten(params)
  return tree.unflatten({k: cast.get(k, leaf) for k, leaf in flat.items()})


def _abstract(mesh, shapes: PyTree, specs: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf, spec: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec)
    ),
    shapes,
    specs,
  )


def build(
  config,
  *,
  sample: Sampling,
  copy_threshold: float,
) -> Parts:
  """Loads models and data and lays the state out on the mesh.

  Args:
    config: of an SFT or RL run.
    sample: how evaluation samples images.
    copy_threshold: see `evals.scores.clip_scores`.

  Raises:
    UserError: a checkpoint, data set, batch or mesh that does not fit.
  """
  inputs = opening.open_inputs(config)
  dataset, loaded, opened = inputs.dataset, inputs.generator, inputs.clip
  plan = make_plan(
    config, model=loaded.model, rules=loaded.rules, clip=opened.clip
  )
  # Before the run, not after it, is when a row that cannot be must be told.
  if config.eval.get("base"):
    locate.resolve(config.eval.base)
  rows = lineage.existing(lineage.trained_from(config.to_dict()))
  layout, types = _shardings(plan.params), _types(plan.params)
  rows = lineage.open_models(rows, loaded, layout, **inputs.compute)
  # In the shapes and types of the model that trains, so that what is compiled
  # for it serves them all.
  rows = [
    (name, functools.partial(read, param_dtype=types)) for name, read in rows
  ]
  if plan.adapters:
    rows = [(name, functools.partial(_unadapted, plan, r)) for name, r in rows]
  clip_params = opened.read(_shardings(plan.frozen["clip"]))
  still = plan.frozen["generator_rest"]
  rest = loaded.read(_shardings(still), _types(still))
  layout = _shardings(plan.state.params)
  if plan.adapters:
    draw = jax.jit(plan.adapters, out_shardings=layout)
    trainable = draw(jax.random.key(config.seed))
  else:
    trainable = loaded.read(layout)
  trained = parameter_overview.count_parameters(trainable)
  total = trained + parameter_overview.count_parameters(rest)
  distributed.say(
    f"{config.model.checkpoint}: {total:,} parameters, {trained:,} trained"
  )
  for line in loaded.warnings():
    distributed.say(line)
  start = jax.jit(
    lambda params: (jnp.int32(0), plan.optimizer.init(params)),
    out_shardings=_shardings((plan.state.step, plan.state.opt_state)),
  )
  step, opt_state = start(trainable)

  spec = windows.WindowSpec.from_options(config.data)
  distributed.say(f"{dataset.path}: {windows.describe(dataset, spec)}")
  spread = jax.NamedSharding(plan.mesh, sharding.BATCH)
  batches = stream.train_batches(
    dataset,
    loaded.processor,
    opened.tokenizer,
    spec,
    batch_size=config.data.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    local_rows=distributed.local_rows(spread, config.data.batch_size),
  )

  evaluator = opening.open_evaluator(
    config,
    inputs,
    Judge(plan.clip, clip_params, opened.tokenizer, copy_threshold, plan.mesh),
    sampling=sample,
    to_rollout_layout=plan.to_rollout_layout,
    validation_users=(
      config.eval.users_during if config.train.eval_every else 0
    ),
  )
  calibration.report(evaluator, tree.merge(trainable, rest))
  return Parts(
    plan=plan,
    state=TrainState(step=step, params=trainable, opt_state=opt_state),
    frozen={"generator_rest": rest, "clip": clip_params},
    iterator=iter(batches),
    evaluator=evaluator,
    rows=rows,
  )


def _unadapted(plan: Plan, read: Callable[[], PyTree]) -> PyTree:
  """Reads a model to compare with, adapters that add nothing beside it."""
  shapes = plan.state.params
  blank = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=_shardings(shapes),
  )
  return tree.merge(read(), blank())


def _shardings(abstract: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _types(abstract: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: leaf.dtype, abstract)


def train(
  config,
  workdir: str,
  parts: Parts,
  frozen: PyTree,
  step: Callable,
  *,
  headline: str,
) -> None:
  """Runs the loop and, at its end, the comparison of models.

  Args:
    config: of the run.
    workdir: of the run.
    parts: see `build`.
    frozen: what the step reads, parts.frozen and more.
    step: (state, frozen, batch) -> (state, metrics), to be jitted.
    headline: the metric on the progress line.
  """
  evaluator = parts.evaluator

  def whole(state, frozen):
    return tree.merge(state.params, frozen["generator_rest"])

  def held_out(state, frozen):
    return evaluator.midrun(whole(state, frozen))

  def finish(state, frozen, workdir):
    # What only training needs makes room for the other models.
    spare = [frozen[name] for name in frozen.keys() - parts.frozen.keys()]
    for array in jax.tree.leaves([state.opt_state, spare]):
      array.delete()
    own = (config.task, whole(state, frozen))
    comparison = evaluator.compare([*parts.rows, own])
    results.write(workdir, evaluator, comparison)

  loop.run(
    loop.Task(
      state=parts.state,
      frozen=frozen,
      step=parts.plan.jit(step),
      iterator=parts.iterator,
      put=parts.plan.put,
      evaluate=held_out,
      finish=finish,
      headline=headline,
      population=evaluator.population,
    ),
    workdir=workdir,
    config_json=config.to_json(indent=2),
    **config.train,
  )
