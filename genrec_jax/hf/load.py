"""Loads models: HF-format folders, bundled assets, and workdirs of ours."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import transformers

from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import (
  forms,
  locate,
  lora_merge,
  safetensors_io,
  settings,
  sharded_read,
)
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf.processor import Processor
from genrec_jax.hf.rules import HFParam, to_params
from genrec_jax.hf.tokenizers import read_tokenizer
from genrec_jax.models import janus
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.runtime import checkpoint, workdir

ASSETS = Path(__file__).parents[1] / "assets"
# model_type of config.json -> its config and names in files, its sharding.
FAMILIES = {"janus": (hf_janus, janus.RULES)}


@dataclasses.dataclass(frozen=True)
class CheckpointHandle:
  """A generator on disk: its weights fit it, and none has been read."""

  model: Generator
  processor: Processor
  source: str  # the HF-format folder of its config and tokenizer
  rules: sharding.Rules
  shapes: PyTree  # of its parameters, float32
  stored: dict[str, HFParam]  # path -> its tensors in `source`
  # path -> newer values than those, `checkpoint.SavedParam` or
  # `lora_merge.LoRAParam`
  trained: dict[str, Any]

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
  """Opens a generator and reads its weights; see `open_generator`."""
  opened = open_generator(path, dtype=dtype, remat=remat)
  params = opened.read(param_dtype=param_dtype)
  return Loaded(**vars(opened), params=params)


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
  folder = resolve(path)
  if (folder / checkpoint.FOLDER).is_dir():
    base = open_generator(_base(folder), dtype=dtype, remat=remat)
    _same_base(folder)
    return _overlay(base, folder)
  forms.check(folder)
  config = safetensors_io.read_config(folder)
  kind = config.get("model_type")
  if kind not in FAMILIES:
    raise UserError(
      f"{folder}/config.json has model_type {kind!r}; expected"
      f" {' or '.join(map(repr, FAMILIES))}: give the folder of a generator in"
      " HF format, such as deepseek-community/Janus-Pro-1B"
    )
  family, rules = FAMILIES[kind]
  processor = Processor.from_pretrained(folder)
  tensors = safetensors_io.open_tensors(folder)
  # Configs leave out that the head is not tied, the default being that it is;
  # as transformers does, believe the weights.
  tied = config.get("tie_word_embeddings", True)
  tied = tied and "lm_head.weight" not in tensors
  model = family.config_from_hf(
    {**config, "tie_word_embeddings": tied},
    bos_id=processor.bos_id,
    pad_id=processor.pad_id,
    boi_id=processor.boi_id,
  ).with_compute(dtype=dtype, remat=remat)
  shapes = _expected(model)
  stored = _stored(
    folder, family.rules(model), tensors, shapes, ignore=family.IGNORED
  )
  return CheckpointHandle(
    model,
    processor,
    source=str(folder),
    rules=rules,
    shapes=shapes,
    stored=tree.flatten(stored),
    trained={},
  )


def codebook_lengths(opened: CheckpointHandle) -> tuple[str, bool]:
  """Says how long the image tokenizer's codebook vectors are.

  Returns:
    A line, and whether they differ by more than their file's type rounds: then
    the nearest code by direction, which is taken here, is not always the
    nearest by distance, which transformers takes; see `VQGAN.quantize`.
  """
  stored = opened.stored["tokenizer/quantizer/embedding"]
  book = stored.read((slice(None),) * 2, np.float64)
  lengths = np.linalg.norm(book, axis=-1)
  low, mean, high = lengths.min(), lengths.mean(), lengths.max()
  rounding = ml_dtypes.finfo(stored.tensors[0].dtype).eps * mean
  line = (
    f"codebook: {len(book):,} vectors of length {low:.4g} to {high:.4g},"
    f" {mean:.4g} on average"
  )
  return line, bool(high - low > rounding)


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
  folder = resolve(path)
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
  """Opens a CLIP model and reads its weights; see `open_clip`.

  Args:
    path: see `open_clip`.
    dtype: see `open_clip`.
    place: of every parameter; None means one device.

  Returns:
    The model, its float32 parameters, its tokenizer.
  """
  opened = open_clip(path, dtype=dtype)
  params = opened.read(_everywhere(opened.shapes, place))
  return opened.clip, params, opened.tokenizer


def sampling_settings(
  path: str | os.PathLike[str],
) -> tuple[dict[str, Any], str | None]:
  """Returns how a model's images are to be sampled: as when it was trained.

  Args:
    path: see `open_generator`. Of a workdir it is the config that says so, of
      an HF-format folder generation_config.json, which has no instruction.

  Returns:
    Those of 'guidance', 'temperature', 'top_k' and 'top_p' that are said, and
    the instruction after the history, or None.

  Raises:
    UserError: there is no such model, or its file is damaged.
  """
  folder = resolve(path)
  names = ("guidance", "temperature", "top_k", "top_p")
  instruction, file = None, folder / "generation_config.json"
  if (folder / checkpoint.FOLDER).is_dir():
    config = workdir.read_config(str(folder))
    said = config.get("sample") or {}
    instruction = (config.get("data") or {}).get("instruction")
  else:
    said = dict(safetensors_io.read_json(file)) if file.exists() else {}
    said["guidance"] = said.get("guidance_scale")
  return {k: said[k] for k in names if said.get(k) is not None}, instruction


def fingerprint(path: str | os.PathLike[str]) -> str:
  """Returns a hash of a checkpoint's weights: 16 hexadecimal digits.

  A workdir's is of its newest checkpoint and of what that is laid over.

  Raises:
    UserError: there is no checkpoint.
  """
  folder, whole = resolve(path), hashlib.sha256()
  if (folder / checkpoint.FOLDER).is_dir():
    whole.update(fingerprint(_base(folder)).encode())
    step = checkpoint.saved_step(str(folder))
    folder = folder / checkpoint.FOLDER / str(step) / "params"
    files = [file for file in folder.rglob("*") if file.is_file()]
  else:
    files = list(folder.glob("*.safetensors"))
  for file in sorted(files):
    with open(file, "rb") as opened:
      whole.update(hashlib.file_digest(opened, "sha256").digest())
  return whole.hexdigest()[:16]


def resolve(path: str | os.PathLike[str]) -> Path:
  """Returns the folder of a path, a bundled asset's name or a hub name.

  Raises:
    UserError: there is neither.
  """
  folder = Path(path)
  if folder.is_dir():
    return folder
  if (ASSETS / folder.name).is_dir() and str(path) == folder.name:
    return ASSETS / folder.name
  if folder.is_file():
    raise UserError(
      f"{path} is a file: expected the folder of a model with config.json and"
      " .safetensors files; .bin and .pt files are pickles, which can run code"
      " and are never read"
    )
  if locate.is_name(path):
    return locate.download(str(path))
  names = sorted(p.name for p in ASSETS.glob("*") if p.is_dir())
  raise UserError(
    f"no model at {str(path)!r}: expected a folder in HF format, a workdir of"
    f" a run, or one of the bundled {', '.join(names)}"
  )


def is_bundled(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is, or names, one of the bundled tiny models."""
  folder = Path(path)
  if not folder.is_dir():
    return folder.name == str(path) and (ASSETS / folder.name).is_dir()
  return folder.resolve().parent == ASSETS.resolve()


def _base(folder: Path) -> str:
  """Returns the checkpoint that a workdir's run started from."""
  try:
    return workdir.read_config(str(folder))["model"]["checkpoint"]
  except (UserError, KeyError, TypeError):
    raise UserError(
      f"{folder} has {checkpoint.FOLDER}/ but no config.json with the"
      " model.checkpoint that its run started from; give a whole workdir"
    ) from None


def _same_base(folder: Path) -> None:
  """Refuses a workdir whose base has other weights than it was trained from."""
  config = tree.flatten(workdir.read_config(str(folder)), sep=".")
  then = config.get(workdir.FINGERPRINT)
  now = then and fingerprint(_base(folder))
  if then != now:
    raise UserError(
      f"{folder} was trained from {_base(folder)} when that had other weights"
      f" ({workdir.FINGERPRINT} {then} then, {now} now): put those back, or"
      " train again"
    )


def _expected(model: Generator | Clip) -> PyTree:
  """Returns the parameters' shapes, float32."""
  return jax.eval_shape(model.init, jax.random.key(0))


def _stored(folder: Path, rules, tensors, shapes, ignore=()) -> PyTree:
  """Finds each parameter's tensors; says in which folder they do not fit."""
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
  """Returns one sharding for all; on one device if None."""
  place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda _: place, shapes)


def _overlay(base: CheckpointHandle, folder: Path) -> CheckpointHandle:
  """Returns the base with a workdir's trained parameters in their places."""
  flat = tree.flatten(base.shapes)
  saved = tree.flatten(checkpoint.open_params(str(folder)))
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
