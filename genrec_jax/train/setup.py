"""What SFT and RL share: models, data, mesh and state, built from a config."""

from collections.abc import Callable
import json
from typing import Any, NamedTuple

from clu import parameter_overview
import jax
import jax.numpy as jnp
import optax

from genrec_jax.core import sharding, tree
from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.data import builders, pipeline
from genrec_jax.evals import evaluate
from genrec_jax.hf import load
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.train import loop, optimizers


class Parts(NamedTuple):
  """Everything that a step and a run are made of; arrays are on the mesh."""

  model: Generator
  clip: Clip
  optimizer: optax.GradientTransformation
  state: TrainState
  state_shardings: TrainState
  frozen: PyTree  # 'generator', what is not trained of it, and 'clip'
  gather: Callable[[PyTree], PyTree]  # parameters for the decode loop
  put: Callable[[PyTree], PyTree]  # host batch -> device batch
  iterator: Any
  evaluator: evaluate.Evaluator
  rows: list[tuple[str, Callable[[], PyTree]]]  # models to compare with


def build(
  config,
  *,
  sample: dict[str, Any],
  copy_threshold: float,
) -> Parts:
  """Loads models and data and lays the state out on the mesh.

  Args:
    config: of an SFT or RL run.
    sample: how evaluation draws; options of `sampling.sample_images`.
    copy_threshold: see `evals.scores.clip_scores`.

  Raises:
    UserError: a checkpoint, data set, batch or mesh that does not fit.
  """
  if 0 < config.optim.decay_steps < config.train.steps:
    raise UserError(
      f"optim.decay_steps={config.optim.decay_steps}: nothing is learned from"
      f" there to train.steps={config.train.steps}; give both the same value,"
      " or optim.decay_steps=0 for a learning rate that stays"
    )
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
  sharding.check_batch(
    mesh,
    **{
      "data.batch_size": config.data.batch_size,
      "eval.batch_size": config.eval.batch_size,
    },
  )
  compute = {"dtype": config.model.dtype, "remat": config.model.remat}
  loaded = load.open_generator(config.model.checkpoint, **compute)

  specs = sharding.specs(loaded.rules, loaded.shapes)
  layout = sharding.layout(mesh, specs, loaded.shapes)
  # Before the run, not after it, is when a row that cannot be must be told.
  if config.eval.get("base"):
    load.resolve(config.eval.base)
  rows = evaluate.present(evaluate.ancestors(config.to_dict()))
  rows = evaluate.open_rows(rows, loaded, layout, **compute)
  clip, clip_params, clip_tokenizer = load.load_clip(
    config.clip.checkpoint,
    dtype=config.clip.dtype,
    place=jax.NamedSharding(mesh, sharding.REPLICATED),
  )
  model = loaded.model
  params = loaded.read(layout)
  trainable, rest = tree.select(params, config.model.trainable)
  total, trained = map(parameter_overview.count_parameters, (params, trainable))
  print(
    f"{config.model.checkpoint}: {total:,} parameters, {trained:,} trained",
    flush=True,
  )
  optimizer = optimizers.adamw(**config.optim)
  state = TrainState(
    step=jnp.int32(0), params=trainable, opt_state=optimizer.init(trainable)
  )
  state_shardings = sharding.shardings(
    mesh,
    sharding.like(tree.select(specs, config.model.trainable)[0], state),
  )
  rollout = sharding.shardings(mesh, sharding.without("data", specs))

  def gather(params):
    return jax.lax.with_sharding_constraint(params, rollout)

  def put(batch):
    return sharding.put_batch(mesh, batch)

  dataset = builders.open_or_build(
    config.data.path,
    num_users=config.data.num_users,
    held_out=config.data.held_out,
    num_events=config.data.num_events,
    future_horizon=config.data.future_horizon,
    seed=config.data.seed,
  )
  window = {
    "history_length": config.data.history_length,
    "future_horizon": config.data.future_horizon,
    "short_histories": config.data.short_histories,
  }
  print(f"{dataset.path}: {pipeline.describe(dataset, **window)}", flush=True)
  window["instruction"] = config.data.instruction
  batches = pipeline.train_batches(
    dataset,
    loaded.processor,
    clip_tokenizer,
    batch_size=config.data.batch_size // jax.process_count(),
    seed=config.seed,
    workers=config.data.workers,
    shard_index=jax.process_index(),
    shard_count=jax.process_count(),
    **window,
  )

  evaluator = evaluate.build(
    model,
    loaded.processor,
    clip,
    clip_params,
    clip_tokenizer,
    dataset,
    users=config.eval.users,
    batch_size=config.eval.batch_size,
    sample=sample,
    copy_threshold=copy_threshold,
    seed=config.seed,
    gather=gather,
    put=put,
    users_during=config.eval.users_during if config.train.eval_every else 0,
    **window,
  )
  return Parts(
    model=model,
    clip=clip,
    optimizer=optimizer,
    state=jax.device_put(state, state_shardings),
    state_shardings=state_shardings,
    frozen={"generator": rest, "clip": clip_params},
    gather=gather,
    put=put,
    iterator=iter(batches),
    evaluator=evaluator,
    rows=rows,
  )


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
  replicated = jax.NamedSharding(
    parts.state_shardings.step.mesh, sharding.REPLICATED
  )
  evaluator = parts.evaluator
  record = json.loads(config.to_json())
  section, key = workdir_lib.FINGERPRINT.split(".")
  record[section][key] = load.fingerprint(config.model.checkpoint)

  def whole(state, frozen):
    return tree.merge(state.params, frozen["generator"])

  def held_out(state, frozen):
    params = whole(state, frozen)
    return evaluate.held_out(
      lambda prompt, key: evaluator.draw(params, prompt, key),
      evaluator.embed,
      evaluator.during,
      evaluate.noise(config.seed),
      copy_threshold=evaluator.copy_threshold,
    )

  def finish(state, frozen, workdir):
    # What only training needs makes room for the other models.
    spare = [frozen[name] for name in frozen.keys() - parts.frozen.keys()]
    for array in jax.tree.leaves([state.opt_state, spare]):
      array.delete()
    own = (config.task, whole(state, frozen))
    evaluate.finish([*parts.rows, own], evaluator, workdir)

  loop.run(
    loop.Task(
      state=parts.state,
      frozen=frozen,
      step=jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(parts.state_shardings, replicated),
      ),
      iterator=parts.iterator,
      put=parts.put,
      evaluate=held_out,
      finish=finish,
      headline=headline,
    ),
    workdir=workdir,
    config_json=json.dumps(record, indent=2),
    **config.train,
  )
