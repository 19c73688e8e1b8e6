"""Loading of models: HF-format folders, bundled assets, workdirs of ours.

In two steps: a model is opened, which finds every parameter and checks all of
them by their shapes, and later read, straight into its shards.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers

from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import (
  families,
  forms,
  locate,
  lora_merge,
  safetensors_io,
  settings,
  sharded_read,
  workdir_model,
)
from genrec_jax.hf.families import Family
from genrec_jax.hf.lazy_array import HFParam, LazyArray
from genrec_jax.hf.processor import Processor
from genrec_jax.hf.rules import Rule, to_params
from genrec_jax.hf.tokenizers import read_tokenizer
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.runtime import checkpoint, saved_params


@dataclasses.dataclass(frozen=True)
class CheckpointHandle:
  """A generator on disk: its weights fit it, and none has been read."""

  model: Generator
  processor: Processor
  source: str  # the HF-format folder of its config and tokenizer
  family: Family
  shapes: PyTree  # of its parameters, float32
  stored: dict[str, HFParam]  # path -> its tensors in `source`
  # path -> newer values than those: `SavedParam` of a full run, `LoRAParam` of
  # one with adapters.
  trained: dict[str, LazyArray]

  @property
  def rules(self) -> sharding.Rules:
    """How its parameters are laid out on a mesh."""
    return self.family.SHARDING

  def warnings(self) -> list[str]:
    """Returns lines about it that its user should know."""
    return self.family.warnings(self.stored)

  def read(
    self, shardings: PyTree | None = None, param_dtype: Any = "float32"
  ) -> PyTree:
    """Reads parameters straight into their shards.

    Args:
      shardings: of the parameters to be read; None means all of them, on one
        device.
      param_dtype: of the results, or a nested dict of each one's; what
        computes casts to its own.
    """
    shardings = _everywhere(self.shapes) if shardings is None else shardings
    # Replaced by path before anything is read: none is read twice.
    newest = tree.unflatten({**self.stored, **self.trained})
    return sharded_read.read(newest, shardings, param_dtype)


@dataclasses.dataclass(frozen=True)
class Loaded(CheckpointHandle):
  """A generator with its parameters, on one device."""

  params: PyTree


def load_generator(
  path: str | os.PathLike[str],
  *,
  dtype: str,
  remat: str = "none",
  param_dtype: str = "float32",
) -> Loaded:
  """Opens a generator and reads its weights.

  Args:
    path: see `open_generator`.
    dtype: compute type, 'float32' or 'bfloat16'.
    remat: see `nn.layers.scan_stack`.
    param_dtype: type of the parameters.
  """
  handle = open_generator(path, dtype=dtype, remat=remat)
  params = handle.read(param_dtype=param_dtype)
  return Loaded(**vars(handle), params=params)


def open_generator(
  path: str | os.PathLike[str], *, dtype: str, remat: str = "none"
) -> CheckpointHandle:
  """Opens a generator; its weights are read when asked for.

  Args:
    path: a folder in HF format; the name of a bundled asset ('tiny_base',
      'tiny_sft'); or a workdir, whose base model is overlaid with its newest
      checkpoint.
    dtype: compute type, 'float32' or 'bfloat16'.
    remat: see `nn.layers.scan_stack`.

  Raises:
    UserError: says which file is wrong and how.
  """
  folder = locate.resolve(path)
  if (folder / checkpoint.FOLDER).is_dir():
    # A base may be a workdir too: RL starts from SFT's.
    base = open_generator(
      workdir_model.base_of(folder), dtype=dtype, remat=remat
    )
    workdir_model.check_base(folder)
    return _overlay(base, folder)
  # First: the errors below would not say what a known other form is.
  forms.check(folder)
  config = safetensors_io.read_config(folder)
  family = families.family_of(folder, config)
  processor = family.open_processor(folder)
  tensors = safetensors_io.open_tensors(folder)
  model = family.model_from_hf(config, processor, tensors)
  model = model.with_compute(dtype=dtype, remat=remat)
  shapes = _expected(model)
  stored = _stored(
    folder, family.rules(model), tensors, shapes, ignore=family.IGNORED
  )
  return CheckpointHandle(
    model,
    processor,
    source=str(folder),
    family=family,
    shapes=shapes,
    stored=tree.flatten(stored),
    trained={},
  )


@dataclasses.dataclass(frozen=True)
class ClipHandle:
  """A CLIP model on disk: its weights fit it, and none has been read."""

  clip: Clip
  tokenizer: transformers.PreTrainedTokenizerBase
  shapes: PyTree  # of its parameters, float32
  stored: PyTree  # their tensors

  def read(self, shardings: PyTree | None = None) -> PyTree:
    """Reads float32 parameters into their shards; None: on one device."""
    shardings = _everywhere(self.shapes) if shardings is None else shardings
    return sharded_read.read(self.stored, shardings, np.float32)


def open_clip(path: str | os.PathLike[str], *, dtype: str) -> ClipHandle:
  """Opens a CLIP model; its weights are read when asked for.

  Args:
    path: a folder in HF format or the name of a bundled asset ('tiny_clip').
    dtype: compute type.

  Raises:
    UserError: says which file is wrong and how.
  """
  folder = locate.resolve(path)
  forms.check(folder)
  config = safetensors_io.read_config(folder)
  preprocessor = settings.image_settings(folder)
  if not preprocessor:
    raise UserError(
      f"{folder} has neither {settings.PREPROCESSOR} nor an image processor in"
      f" {settings.PROCESSOR}: take the file of the same CLIP, whose mean and"
      " deviation of pixels it holds"
    )
  clip = hf_clip.config_from_hf(config, preprocessor, dtype=dtype)
  shapes = _expected(clip)
  stored = _stored(
    folder,
    hf_clip.rules(clip),
    safetensors_io.open_tensors(folder),
    shapes,
    ignore=hf_clip.IGNORED,
  )
  tokenizer = read_tokenizer(folder)
  # A tokenizer that does not say how long a text may be says 1e30.
  tokenizer.model_max_length = min(
    tokenizer.model_max_length, clip.max_position_embeddings
  )
  return ClipHandle(clip, tokenizer, shapes, stored)


def load_clip(
  path: str | os.PathLike[str],
  *,
  dtype: str,
  place: jax.sharding.Sharding | None = None,
) -> tuple[Clip, PyTree, transformers.PreTrainedTokenizerBase]:
  """Opens a CLIP model and reads its weights.

  Args:
    path: a folder in HF format or the name of a bundled asset.
    dtype: compute type.
    place: of every parameter; None means one device.

  Returns:
    The model, its float32 parameters, its tokenizer.
  """
  handle = open_clip(path, dtype=dtype)
  params = handle.read(_everywhere(handle.shapes, place))
  return handle.clip, params, handle.tokenizer


def _expected(model: Generator | Clip) -> PyTree:
  """Returns the parameters' shapes, float32."""
  return jax.eval_shape(model.init, jax.random.key(0))


def _stored(
  folder: Path,
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: PyTree,
  ignore: Sequence[str],
) -> PyTree:
  """Finds each parameter's tensors; errors name the folder."""
  # Before the shapes are compared: those of quantized tensors differ as well.
  problem = forms.quantized(tensors)
  if problem:
    raise UserError(f"{folder} {problem}")
  try:
    return to_params(rules, tensors, shapes, ignore)
  except UserError as error:
    raise UserError(f"{folder}: {error}") from None


def _everywhere(
  shapes: PyTree, place: jax.sharding.Sharding | None = None
) -> PyTree:
  """Returns one sharding for all parameters; on one device if None."""
  place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda _: place, shapes)


def _overlay(base: CheckpointHandle, folder: Path) -> CheckpointHandle:
  """Returns the base with a workdir's trained parameters in their places."""
  flat = tree.flatten(base.shapes)
  saved = tree.flatten(saved_params.open_params(str(folder)))
  # Adapters become sums with the newest kernels below them.
  new = lora_merge.merged(saved, {**base.stored, **base.trained})
  problems = [f"{name}: not in the base model" for name in new.keys() - flat]
  problems += [
    f"{name}: base {list(flat[name].shape)}, trained {list(new[name].shape)}"
    for name in new.keys() & flat.keys()
    if flat[name].shape != new[name].shape
  ]
  if problems:
    raise UserError(
      listed(
        f"the checkpoint in {folder} does not fit its base model, which must"
        " have changed since:",
        sorted(problems),
      )
    )
  return dataclasses.replace(base, trained={**base.trained, **new})
