"""Writer of generators as transformers' `from_pretrained` loads them."""

from collections.abc import Mapping
import os
from pathlib import Path
from typing import Any

from genrec_jax.core.types import PyTree
from genrec_jax.hf import families, safetensors_io, write_model
from genrec_jax.hf.load import CheckpointHandle
from genrec_jax.hf.rules import to_hf
from genrec_jax.models.api import Generator


def export_generator(
  folder: str | os.PathLike[str],
  model: Generator,
  params: PyTree,
  source: str | os.PathLike[str],
  dtype: str,
) -> None:
  """Writes weights, config, tokenizer and processor; all of it or nothing.

  Args:
    folder: where to; absent or empty.
    model: the generator.
    params: its parameters.
    source: an HF-format folder of the same model, for all but the parameters.
    dtype: what the weights are stored as, such as 'bfloat16'.

  Raises:
    UserError: the folder is not empty or cannot be written.
  """
  config = safetensors_io.read_config(source)
  family = families.family_of(Path(source), config)
  config = family.config_for_export(config, model)
  tensors: dict[str, Any] = dict(to_hf(family.rules(model), params))
  if family.CARRIED:  # else the source need not have weights
    stored = families.renamed(family, safetensors_io.open_tensors(source))
    tensors |= families.carried(family, stored)
  _write(folder, config, tensors, source, dtype)


def export_checkpoint(
  folder: str | os.PathLike[str],
  handle: CheckpointHandle,
  dtype: str | None = None,
  sampling: Mapping[str, Any] | None = None,
) -> None:
  """Writes an opened generator, reading one tensor at a time.

  What was never trained is copied bit for bit.

  Args:
    folder: where to; absent or empty.
    handle: an HF-format folder or a workdir, see `load.open_generator`.
    dtype: what the weights are stored as; None keeps the types of the
      checkpoint that training began with.
    sampling: how to sample images, see `workdir_model.sampling_settings`.

  Raises:
    UserError: the folder is not empty or cannot be written.
  """
  sampling = sampling or {}
  # Those that change nothing are left out.
  neutral = {"temperature": 1, "top_k": 0, "top_p": 1}
  generation = {
    key: sampling[key]
    for key, nothing in neutral.items()
    if sampling.get(key, nothing) != nothing
  }
  if "guidance" in sampling:  # even 1: a checkpoint may come with 5
    generation["guidance_scale"] = sampling["guidance"]
  config = handle.family.config_for_export(
    safetensors_io.read_config(handle.source), handle.model
  )
  tensors = _tensors(handle)
  _write(folder, config, tensors, handle.source, dtype, generation)


def _tensors(handle: CheckpointHandle) -> dict[str, Any]:
  """Returns HF name -> tensor, trained or as the source has it."""
  tensors = {}
  for path, stored in handle.stored.items():
    for i, tensor in enumerate(stored.tensors):
      if path in handle.trained:
        tensor = stored.layer_of(handle.trained[path], i)
      tensors[stored.names[i]] = tensor
  return tensors | handle.carried


def _write(
  folder: str | os.PathLike[str],
  config: dict[str, Any],
  tensors: Mapping[str, Any],
  source: str | os.PathLike[str],
  dtype: str | None,
  generation: Mapping[str, Any] | None = None,
) -> None:
  if dtype is not None:
    sections = [value for value in config.values() if isinstance(value, dict)]
    for section in (config, *sections):
      for key in ("dtype", "torch_dtype"):  # of transformers 5 and 4
        if key in section:
          section[key] = dtype
    config["dtype"] = dtype
  write_model.write(
    folder,
    config,
    tensors,
    dtype=dtype,
    source=source,
    generation=generation,
  )
