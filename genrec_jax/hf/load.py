"""Loading of models: HF-format folders, bundled assets, workdirs of ours.

In two steps: a model is opened, which finds every parameter and checks all of
them by their shapes, and later read, straight into its shards.
"""

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import transformers

from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.hf import (
  encoders,
  families,
  forms,
  locate,
  lora_merge,
  parameters,
  safetensors_io,
  sharded_read,
  workdir_model,
)
from genrec_jax.hf.families import Family
from genrec_jax.hf.lazy_array import HFParam, LazyArray
from genrec_jax.hf.processor import Processor
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
  carried: dict[str, Any]  # HF name -> tensor that no parameter is of

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
    if shardings is None:
      shardings = parameters.everywhere(self.shapes)
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
  **sizes: int,
) -> Loaded:
  """Opens a generator and reads its weights.

  Args:
    path: see `open_generator`.
    dtype: compute type, 'float32' or 'bfloat16'.
    remat: see `nn.layers.scan_stack`.
    param_dtype: type of the parameters.
    **sizes: image_size and read_size, see `open_generator`.
  """
  handle = open_generator(path, dtype=dtype, remat=remat, **sizes)
  params = handle.read(param_dtype=param_dtype)
  return Loaded(**vars(handle), params=params)


def open_generator(
  path: str | os.PathLike[str],
  *,
  dtype: str,
  remat: str = "none",
  image_size: int = 0,
  read_size: int = 0,
) -> CheckpointHandle:
  """Opens a generator; its weights are read when asked for.

  Args:
    path: a folder in HF format; the name of a bundled asset ('tiny_base',
      'tiny_sft'); or a workdir, whose base model is overlaid with its newest
      checkpoint.
    dtype: compute type, 'float32' or 'bfloat16'.
    remat: see `nn.layers.scan_stack`.
    image_size: pixels per side of generated images; 0: as the run, or the
      checkpoint, was made for.
    read_size: the same of the images in a prompt.

  Raises:
    UserError: says which file is wrong and how.
  """
  folder = locate.resolve(path)
  sizes = {"image_size": image_size, "read_size": read_size}
  if (folder / checkpoint.FOLDER).is_dir():
    # A base may be a workdir too: RL starts from SFT's.
    base_path = workdir_model.base_of(folder)  # first: it says what is missing
    own = workdir_model.image_sizes(folder)
    base = open_generator(
      base_path,
      dtype=dtype,
      remat=remat,
      **{name: size or own.get(name, 0) for name, size in sizes.items()},
    )
    workdir_model.check_base(folder)
    return _overlay(base, folder)
  # First: the errors below would not say what a known other form is.
  forms.check(folder)
  config = safetensors_io.read_config(folder)
  family = families.family_of(folder, config)
  config |= {name: size for name, size in sizes.items() if size}
  processor = family.open_processor(folder, config)
  tensors = families.renamed(family, safetensors_io.open_tensors(folder))
  model = family.model_from_hf(config, processor, tensors)
  _check_sizes(folder, model, sizes)
  model = model.with_compute(dtype=dtype, remat=remat)
  shapes = parameters.shapes_of(model)
  stored = parameters.find(
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
    carried=families.carried(family, tensors),
  )


def _check_sizes(
  folder: Path, model: Generator, sizes: Mapping[str, int]
) -> None:
  """Refuses sizes of images that a model does not have."""
  problems = [
    f"model.{name}={size}: expected {getattr(model, name)}, the only one, or 0"
    for name, size in sizes.items()
    if size and size != getattr(model, name)
  ]
  if problems:
    raise UserError(listed(f"{folder}, sizes of images:", problems))


def open_clip(
  path: str | os.PathLike[str], *, dtype: str
) -> encoders.EncoderHandle[Clip]:
  """Opens a CLIP model; its weights are read when asked for.

  Args:
    path: a folder in HF format or the name of a bundled asset ('tiny_clip').
    dtype: compute type.

  Raises:
    UserError: says which file is wrong and how.
  """
  return encoders.open_encoder(path, dtype=dtype, kind="clip")


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
  params = handle.read(parameters.everywhere(handle.shapes, place))
  assert handle.tokenizer is not None  # its format has a text tower
  return handle.model, params, handle.tokenizer


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
