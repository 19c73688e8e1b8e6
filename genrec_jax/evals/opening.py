"""The opening of a task: data set, models and evaluator, from a config.

Training and evaluation share it, so that both read the same users and prompts.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from jax.sharding import Mesh

from genrec_jax.core.types import PyTree
from genrec_jax.data import prompts, synthetic
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.eval_batches import eval_batches
from genrec_jax.data.prompts import PromptDataset
from genrec_jax.data.windows import WindowSpec
from genrec_jax.evals import (
  captions,
  compiled,
  encoders,
  held_out,
  lineage,
)
from genrec_jax.evals.catalogue import DatasetCatalogue
from genrec_jax.evals.encoders import Encoder
from genrec_jax.evals.evaluator import Evaluator
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.evals.panel import Panel
from genrec_jax.evals.recommenders.interactions import training_interactions
from genrec_jax.hf import load
from genrec_jax.hf.encoders import CLIP_NAME, EncoderHandle
from genrec_jax.models.clip import Clip
from genrec_jax.runtime import distributed, inheritance
from genrec_jax.sampling import Sampling, Titles, title_tokens


class Inputs(NamedTuple):
  """Data set and models of a config, opened; no weight is in memory yet."""

  dataset: Dataset
  generator: load.CheckpointHandle
  clip: EncoderHandle[Clip]
  judges: tuple[EncoderHandle[Any], ...]  # besides CLIP, which rewards
  rater: EncoderHandle[Any] | None  # of quality
  compute: Mapping[str, Any]  # options that other generators open with, too
  warnings: tuple[str, ...]  # why the numbers mean nothing, if they do


def open_inputs(config: Any) -> Inputs:
  """Opens what a config names; prints the warnings.

  Raises:
    UserError: a checkpoint or data set that does not fit.
  """
  # First, as it takes least to open and is most often mistyped.
  dataset = _open_dataset(config)
  judges = config.eval.get("judges", ())
  warnings = lineage.warnings(
    config.model.checkpoint, (config.clip.checkpoint, *judges), dataset
  )
  for line in warnings:
    distributed.say(f"warning: {line}")
  # `remat` concerns gradients: an evaluation's config has none.
  compute = {
    k: config.model[k]
    for k in ("dtype", "remat", "image_size", "read_size")
    if k in config.model
  }
  return Inputs(
    dataset=dataset,
    generator=load.open_generator(config.model.checkpoint, **compute),
    clip=load.open_clip(config.clip.checkpoint, dtype=config.clip.dtype),
    judges=encoders.open_judges(
      judges, config.clip.checkpoint, dtype=config.clip.dtype
    ),
    rater=encoders.open_rater(
      config.eval.get("quality", ""), dtype=config.clip.dtype
    ),
    compute=compute,
    warnings=tuple(warnings),
  )


def open_panel(inputs: Inputs, clip_params: PyTree, mesh: Mesh) -> Panel:
  """Reads the others' weights, and joins them with the reward's CLIP.

  Args:
    inputs: see `open_inputs`.
    clip_params: of the reward's CLIP, on the devices.
    mesh: of the run.
  """
  clip = Encoder(
    CLIP_NAME, inputs.clip.model, clip_params, inputs.clip.tokenizer, mesh
  )
  others = encoders.read_judges(inputs.judges, mesh, rater=inputs.rater)
  return Panel((clip, *others), mesh)


def _open_dataset(config: Any) -> Dataset:
  """Opens prompts of a file, a prepared data set, or the synthetic world."""
  if config.data.prompts:
    return prompts.load(
      config.data.prompts,
      held_out=config.data.held_out,
      seed=config.data.seed,
    )
  return synthetic.open_or_build(
    config.data.path,
    **{name: config.data[name] for name in inheritance.WORLD_KEYS},
  )


def open_evaluator(
  config: Any,
  inputs: Inputs,
  panel: Panel,
  *,
  sampling: Sampling,
  copy_threshold: float,
  to_rollout_layout: Callable[[PyTree], PyTree] = lambda params: params,
  validation_users: int = 0,
) -> Evaluator:
  """Reads held-out users and compiles what generates for them.

  Args:
    config: of a run; its sections data and eval.
    inputs: see `open_inputs`.
    panel: the encoders, on the devices; see `open_panel`.
    sampling: how images are sampled, and how many.
    copy_threshold: CLIP's cosine with a history image from which a sample is a
      copy of it.
    to_rollout_layout: lays out parameters for the decode loop, in the graph.
    validation_users: held-out users of mid-run evaluations, at most.
  """
  generator = inputs.generator
  model, processor = generator.model, generator.processor
  read = functools.partial(_read_users, config, inputs, panel)
  dataset = inputs.dataset
  has_images = not isinstance(dataset, PromptDataset) or dataset.has_images
  test = read("test", config.eval.users)
  # 0 users would mean all of them to the stream.
  validation = read("validation", validation_users) if validation_users else []
  return Evaluator(
    generate=compiled.make_generate(
      model,
      sampling,
      mesh=panel.mesh,
      to_rollout_layout=to_rollout_layout,
      titles=Titles.from_options(config.model, model, processor.end_ids),
    ),
    panel=panel,
    test=test,
    # The crop is what is generated and what CLIP compares with.
    catalogue=DatasetCatalogue(inputs.dataset.items, processor.crop),
    num_samples=sampling.num_samples,
    seed=config.seed,
    copy_thresholds={CLIP_NAME: copy_threshold},
    recommenders=tuple(config.eval.recommenders),
    interactions=training_interactions(inputs.dataset.index),
    validation=validation,
    # Prompts of a file may have no images, and then there are no items.
    reconstruct=compiled.make_reconstruct(model, mesh=panel.mesh)
    if has_images
    else None,
    shows_items=has_images,
    population=population(inputs.dataset),
    keep_images=config.eval.keep_images,
    temperature=config.sample.temperature,
    temperatures=tuple(config.eval.temperatures),
    warnings=inputs.warnings,
    decode=functools.partial(
      processor.tokenizer.decode, skip_special_tokens=True
    ),
    captions=captions.make(model, processor, [*test, *validation], panel.mesh)
    if has_images and config.eval.captions
    else None,
  )


def window_spec(config: Any) -> WindowSpec:
  """Returns what windows and answers of a config are."""
  return WindowSpec.from_options(
    config.data, title_tokens=title_tokens(config.model)
  )


def _read_users(
  config: Any, inputs: Inputs, panel: Panel, split: str, users: int
) -> list[HeldOutBatch]:
  """Returns the held-out users of a split, at most `users`, in memory."""
  batches = eval_batches(
    inputs.dataset,
    inputs.generator.processor,
    panel.clip.tokenizer,
    window_spec(config),
    batch_size=config.eval.batch_size,
    num_users=users,
    split=split,
  )
  return held_out.prepare(batches, panel, config.eval.batch_size)


def population(dataset: Dataset) -> str:
  """Returns who is evaluated, to stand after a number.

  A data set with held-out users is evaluated on them; of any other all users
  are trained on, except for their last items.
  """
  if isinstance(dataset, PromptDataset):
    return "held-out prompts"
  held_out_users = dataset.index.held_out
  return "held-out users" if held_out_users else "users' held-out last items"
