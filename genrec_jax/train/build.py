"""Build of a run: state, data, evaluator and compared models, on the mesh."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from clu import parameter_overview
import jax
import jax.numpy as jnp

from genrec_jax.core import sharding, tree
from genrec_jax.core.types import PyTree, TrainState
from genrec_jax.data import metadata, shown_prompt, stream, windows
from genrec_jax.data.examples import ReadTitles
from genrec_jax.evals import calibration, lineage, opening
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.hf import load, locate
from genrec_jax.runtime import distributed, progress
from genrec_jax.sampling import Sampling
from genrec_jax.train import memory, reward_encoders
from genrec_jax.train.memory import Memory
from genrec_jax.train.plan import Plan, make_plan, shardings_of, types_of
from genrec_jax.train.rl_options import Reading
from genrec_jax.train.trainable import cast_frozen

# (name in the table, reads its parameters)
ComparedModel = tuple[str, Callable[..., PyTree]]


class RunParts(NamedTuple):
  """Everything that a run is made of; arrays are on the mesh."""

  plan: Plan
  state: TrainState
  frozen: PyTree  # what the step reads and never changes
  iterator: Any  # of host batches, see `LoopInputs`
  evaluator: Evaluator
  models: list[ComparedModel]  # what the trained model came from
  prompt_sizes: Mapping[str, int]  # P, T and N, by the names in `throughput`
  # What is known of a training window, by its number.
  describe: Callable[[int], Mapping[str, Any]]
  reading: Reading | None  # of written titles; None: nothing asks for it


def build(config: Any, *, sample: Sampling, copy_threshold: float) -> RunParts:
  """Loads models and data and lays the state out on the mesh.

  Args:
    config: of an SFT or RL run.
    sample: how evaluation samples images.
    copy_threshold: see `opening.open_evaluator`.

  Raises:
    UserError: a checkpoint, data set, batch or mesh that does not fit.
  """
  inputs = opening.open_inputs(config)
  rewarding = reward_encoders.open_encoders(
    config.to_dict().get("rewards"), dtype=config.clip.dtype
  )
  generator = inputs.generator
  reading = reward_encoders.open_reading(
    config.to_dict().get("rewards"), generator.processor, inputs.clip
  )
  plan = make_plan(
    config,
    model=generator.model,
    rules=generator.rules,
    clip=inputs.clip.model,
    encoders={name: one.model for name, one in rewarding.items()},
    end_ids=generator.processor.end_ids,
  )
  # Fail before training, not after, if a model cannot be compared.
  models = open_compared(config, inputs, plan)
  clip_params = inputs.clip.read(shardings_of(plan.frozen["clip"]))
  state, rest = init_state(config, generator, plan)
  frozen = {"generator_rest": rest, "clip": clip_params}
  if rewarding:
    frozen["encoders"] = {
      name: one.read(shardings_of(plan.frozen["encoders"][name]))
      for name, one in rewarding.items()
    }
  iterator = open_batches(
    config,
    inputs,
    plan,
    titles=reward_encoders.titles(rewarding),
    numbered=reward_encoders.asks_host(config.to_dict().get("rewards")),
  )
  with progress.waiting("reading held-out users"):
    evaluator = opening.open_evaluator(
      config,
      inputs,
      opening.open_panel(inputs, clip_params, plan.mesh),
      sampling=sample,
      copy_threshold=copy_threshold,
      to_rollout_layout=plan.to_rollout_layout,
      validation_users=(
        config.eval.users_during if config.train.eval_every else 0
      ),
    )
  # Whether the copy threshold separates copies, said before hours of training.
  with progress.waiting("measuring the copy threshold"):
    params = tree.merge(state.params, rest)
    evaluator = calibration.calibrated(evaluator, params)
  # Prompts of training are as long: both are padded to the longest there is.
  prompt = evaluator.test[0].batch.prompt
  distributed.say(shown_prompt.line(generator.processor.tokenizer, prompt))
  return RunParts(
    plan=plan,
    state=state,
    frozen=frozen,
    iterator=iterator,
    evaluator=evaluator,
    models=models,
    prompt_sizes={
      "prompts": config.data.batch_size,
      "tokens": prompt.ids.shape[1],
      "images": prompt.images.shape[1],
    },
    describe=functools.partial(
      metadata.describe,
      inputs.dataset,
      windows.find_windows(
        inputs.dataset, "train", opening.window_spec(config)
      ),
    ),
    reading=reading,
  )


def init_state(
  config: Any, generator: load.CheckpointHandle, plan: Plan
) -> tuple[TrainState, PyTree]:
  """Reads the generator and initialises the optimizer.

  Returns:
    The state before the first step, and the frozen rest of the generator.
  """
  frozen = plan.frozen["generator_rest"]
  rest = generator.read(shardings_of(frozen), types_of(frozen))
  layout = shardings_of(plan.state.params)
  if plan.adapters:  # the checkpoint's weights are all among the rest
    initialise = jax.jit(plan.adapters, out_shardings=layout)
    trainable = initialise(jax.random.key(config.seed))
  else:
    trainable = generator.read(layout)
  _describe(config, generator, trainable, rest)
  # Jitted, so that moments are made in their shards and nowhere whole.
  start = jax.jit(
    lambda params: (jnp.int32(0), plan.optimizer.init(params)),
    out_shardings=shardings_of((plan.state.step, plan.state.opt_state)),
  )
  step, opt_state = start(trainable)
  state = TrainState(step=step, params=trainable, opt_state=opt_state)
  kept = Memory.of(config.get("rl"))
  if kept.kept:  # copies, in their shards as well
    cast = functools.partial(cast_frozen, plan.model)
    remember = jax.jit(
      lambda state: memory.begin(state, kept, cast),
      out_shardings=shardings_of(plan.state),
      donate_argnums=0,
    )
    state = remember(state)
  return state, rest


def _describe(
  config: Any, generator: load.CheckpointHandle, trainable: PyTree, rest: PyTree
) -> None:
  """Prints how many parameters are trained, and the model's warnings."""
  trained = parameter_overview.count_parameters(trainable)
  total = trained + parameter_overview.count_parameters(rest)
  distributed.say(
    f"{config.model.checkpoint}: {total:,} parameters, {trained:,} trained"
  )
  for line in generator.warnings():
    distributed.say(line)


def open_batches(
  config: Any,
  inputs: opening.Inputs,
  plan: Plan,
  *,
  titles: Mapping[str, ReadTitles],
  numbered: bool,
) -> Any:
  """Returns the iterator of this process's rows of training batches.

  Args:
    config: of the run.
    inputs: of the run.
    plan: of the run.
    titles: see `reward_encoders.titles`.
    numbered: see `stream.train_batches`.
  """
  spec = opening.window_spec(config)
  dataset = inputs.dataset
  distributed.say(f"{dataset.path}: {windows.describe(dataset, spec)}")
  # A process makes only the rows that its own devices hold.
  spread = jax.NamedSharding(plan.mesh, sharding.BATCH)
  local_rows = distributed.local_rows(spread, config.data.batch_size)
  batches = stream.train_batches(
    dataset,
    inputs.generator.processor,
    inputs.clip.tokenizer,
    spec,
    batch_size=config.data.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    local_rows=local_rows.tolist(),
    titles=titles,
    numbered=numbered,
  )
  return iter(batches)


def open_compared(
  config: Any, inputs: opening.Inputs, plan: Plan
) -> list[ComparedModel]:
  """Opens the models that the trained one came from; none is read yet.

  They are read in the shapes and types of the model that trains, so that what
  is compiled for it serves them all.

  Raises:
    UserError: eval.base is not there, or a model is of another architecture.
  """
  if config.eval.get("base"):
    locate.resolve(config.eval.base)
  found = lineage.existing(lineage.trained_from(config.to_dict()))
  models = lineage.open_models(
    found, inputs.generator, shardings_of(plan.params), **inputs.compute
  )
  dtypes = types_of(plan.params)
  models = [
    (name, functools.partial(read, param_dtype=dtypes)) for name, read in models
  ]
  if plan.adapters:
    models = [
      (name, functools.partial(_with_blank_adapters, plan, read))
      for name, read in models
    ]
  return models


def _with_blank_adapters(plan: Plan, read: Callable[[], PyTree]) -> PyTree:
  """Reads a model to compare with, next to adapters that add nothing."""
  shapes = plan.state.params
  # One compiled function then serves models with and without adapters.
  blank = jax.jit(
    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    out_shardings=shardings_of(shapes),
  )
  return tree.merge(read(), blank())
