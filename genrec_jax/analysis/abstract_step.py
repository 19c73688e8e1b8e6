"""Abstract step: a config's step traced from shapes, without weights or data.

What is compiled is what a run compiles: models, layout and step come from
`train.plan`, `train.sft` and `train.rl`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax import rewards, sampling
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Batch, Prompt, PyTree, Title
from genrec_jax.hf import families, load
from genrec_jax.models import clip as clips
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.sampling import decoding
from genrec_jax.train import reward_encoders, rl, sft
from genrec_jax.train.plan import Plan, make_plan
from genrec_jax.train.rl_options import Reading

# Tokens of a prompt besides its items': BOS, the turns' names, an instruction
# of a dozen words, begin of image.
_FRAME = 32
# Besides an item's title, its image and what begins one: end of image, a new
# line.
_ITEM = 2


def open_plan(
  config: Any,
  variant: str,
  devices: Sequence[Any] | None,
  *,
  layers: int = 0,
) -> Plan:
  """Lays out the models of a config on devices, real or only described.

  Args:
    config: of an SFT or RL run.
    variant: of the config; its preset stands in for a model.checkpoint that is
      '', and CLIP ViT-L/14 for a clip.checkpoint that is ''.
    devices: of the mesh; None means all real ones.
    layers: of the language model, of which the checkpoint or preset may have
      another number; 0: its own.

  Raises:
    UserError: a checkpoint, batch or mesh that does not fit.
  """
  compute = {"dtype": config.model.dtype, "remat": config.model.remat}
  names = ("image_size", "read_size")
  sizes = {name: config.model[name] for name in names if config.model[name]}
  if config.model.checkpoint:
    opened = load.open_generator(config.model.checkpoint, **compute, **sizes)
    model, rules = opened.model, opened.rules
  elif variant in families.presets():
    family, preset = families.presets()[variant]
    model, rules = _sized(preset, sizes), family.SHARDING
    model = model.with_compute(**compute)
  else:
    raise UserError(
      "model.checkpoint is not set and the config's variant, "
      f"{variant!r}, is no model of known sizes: give one of"
      f" {', '.join(families.presets())}, or --config.model.checkpoint=DIR"
    )
  if layers:
    model = _of_depth(model, layers)
  dtype = config.clip.dtype
  clip = (
    load.open_clip(config.clip.checkpoint, dtype=dtype).model
    if config.clip.checkpoint
    else clips.vit_l_14(dtype=dtype)
  )
  encoders = reward_encoders.open_encoders(
    config.to_dict().get("rewards"), dtype=dtype
  )
  return make_plan(
    config,
    model=model,
    rules=rules,
    clip=clip,
    encoders={name: one.model for name, one in encoders.items()},
    devices=devices,
  )


def _of_depth(model: Any, layers: int) -> Any:
  """Returns a generator with another number of layers in its language model."""
  language = dataclasses.replace(model.language, num_layers=layers)
  return dataclasses.replace(model, language=language)


def _sized(
  preset: Callable[..., Generator], sizes: Mapping[str, int]
) -> Generator:
  """Returns a preset with sizes of images.

  Raises:
    UserError: they are not those of the model, or do not fit it.
  """
  try:
    return preset(**sizes)
  except (TypeError, ValueError) as error:
    given = ", ".join(f"model.{name}={size}" for name, size in sizes.items())
    raise UserError(
      f"{given} does not fit this model ({error}): expected 0, its own"
    ) from None


def prompt_tokens(config: Any, model: Generator, title_tokens: int) -> int:
  """Returns T, the length of prompts of full histories.

  Args:
    config: of a run.
    model: the generator.
    title_tokens: of the longest title; only reading the data gives theirs.
  """
  item = model.prompt_tokens + len(model.image_begin) + title_tokens + _ITEM
  return config.data.history_length * item + _FRAME


def batch(
  config: Any, model: Generator, clip: Clip, title_tokens: int
) -> Batch:
  """Returns the shapes and types of a config's batch."""
  p, n, f = (
    config.data.batch_size,
    config.data.history_length,
    config.data.future_horizon,
  )
  t = prompt_tokens(config, model, title_tokens)
  w = clip.max_position_embeddings
  words = sampling.title_tokens(config.model)
  image = (model.image_size, model.image_size, 3)
  read = (model.read_size, model.read_size, 3)

  def array(dtype, *shape):
    return jax.ShapeDtypeStruct((p, *shape), dtype)

  return Batch(
    prompt=Prompt(
      ids=array(jnp.int32, t),  # [P, T]
      mask=array(jnp.bool_, t),
      images=array(jnp.uint8, n, *read),  # [P, N, h, w, 3]
    ),
    history=array(jnp.uint8, n, *image),  # [P, N, h, w, 3]
    history_mask=array(jnp.bool_, n),
    future=array(jnp.uint8, f, *image),  # [P, F, h, w, 3]
    future_mask=array(jnp.bool_, f),
    title_ids=array(jnp.int32, w),  # [P, W]
    title_mask=array(jnp.bool_, w),
    title=Title(array(jnp.int32, 1, words), array(jnp.bool_, 1, words))
    if words
    else None,
  )


def arguments(config: Any, plan: Plan, title_tokens: int) -> tuple:
  """Returns (state, frozen, batch) as shapes, types and shardings."""
  frozen = plan.frozen
  if config.task == "rl":
    frozen = rl.read_by_step(config, plan, frozen)
    frozen = frozen | rl.reference(config, plan)
  layout = jax.NamedSharding(plan.mesh, sharding.BATCH)
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
    batch(config, plan.model, plan.clip, title_tokens),
  )
  return plan.state, frozen, rows


def lower(config: Any, plan: Plan, args: tuple) -> jax.stages.Lowered:
  """Traces the step of a config, ready to be compiled."""
  if config.task == "sft":
    step = sft.make_step(config, plan)
  else:
    step = rl.make_step(config, plan, reading=_reading(plan))
  return plan.jit(step).lower(*args)


def _reading(plan: Plan) -> Reading:
  """Returns how titles are read, of the right shapes; nothing is ever read."""
  width = plan.clip.max_position_embeddings

  def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(texts), width)
    return np.zeros(shape, np.int32), np.ones(shape, bool)

  question = (0,) * (plan.model.image_tokens + _FRAME)
  return Reading(
    rewards.Translator(lambda ids: "", encode), rewards.Question(question, 0)
  )


def kv_shapes(config: Any, plan: Plan, args: tuple) -> list[Any]:
  """Returns the whole arrays of keys and values that a rollout holds."""
  narrow = config.rl.rollout_type == "int8"
  sample = sampling.Sampling(**config.sample, int8_cache=narrow)
  model = plan.model

  def hold(params, prompt):
    decoder = decoding.start(model, params, prompt, sample)
    # Of the prefix all but its mask and its last state.
    prefix = [x for x in jax.tree.leaves(decoder.prefix) if x.ndim > 3]
    return prefix, decoder.empty_cache(plan.answer_tokens)

  params = jax.eval_shape(model.init, jax.random.key(0))
  hold = sharding.trace_with_mesh(plan.mesh, hold)
  return jax.tree.leaves(jax.eval_shape(hold, params, args[2].prompt))


def nbytes(tree: PyTree) -> int:
  """Returns the bytes of a tree's shards on one device."""
  return sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(tree)
  )
