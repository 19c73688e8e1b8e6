"""Encoders of images in HF format: rewards' CLIP, and judges of other kinds.

To add a format write a module like `hf.clip` and name it in `FORMATS`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path
import re
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import transformers

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree
from genrec_jax.hf import (
  clip,
  dinov2,
  forms,
  locate,
  parameters,
  safetensors_io,
  settings,
  sharded_read,
  siglip,
)
from genrec_jax.hf.rules import Rule
from genrec_jax.hf.tokenizers import read_tokenizer
from genrec_jax.models.encoders import ImageEncoder

M = TypeVar("M", bound=ImageEncoder, covariant=True)


class Format(Protocol):
  """Module of a format of encoders: from HF files to an `ImageEncoder`."""

  # HF tensors that hold no parameter; whole-name regexes.
  IGNORED: Sequence[str]

  def config_from_hf(
    self,
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    **overrides: Any,
  ) -> Any:
    """Returns the model that a folder describes.

    Args:
      config: config.json.
      preprocessor: of the image processor, see `settings.image_settings`.
      **overrides: fields that HF configs do not have, such as `dtype`.

    Raises:
      UserError: the code cannot reproduce such a model; lists all reasons.
    """

  def rules(self, model: Any, /) -> tuple[Rule, ...]:
    """Returns the table of HF names and parameters of a model."""


CLIP_NAME = "clip"  # of the reward's CLIP in names of metrics
# Begins the names of encoders that score quality, and nothing else.
QUALITY_PREFIX = "quality_"
# model_type of config.json -> module.
FORMATS: dict[str, Format] = {"clip": clip, "siglip": siglip, "dinov2": dinov2}


@dataclasses.dataclass(frozen=True)
class EncoderHandle(Generic[M]):
  """An encoder on disk: its weights fit it, and none has been read."""

  name: str  # see `name_of`
  model: M
  # None: the format has no text tower.
  tokenizer: transformers.PreTrainedTokenizerBase | None
  shapes: PyTree  # of its parameters, float32
  stored: PyTree  # their tensors

  def read(self, shardings: PyTree | None = None) -> PyTree:
    """Reads float32 parameters into their shards; None: on one device."""
    if shardings is None:
      shardings = parameters.everywhere(self.shapes)
    return sharded_read.read(self.stored, shardings, np.float32)


def name_of(path: str | os.PathLike[str]) -> str:
  """Returns the name of an encoder in those of metrics: its folder's.

  What is no letter or digit becomes an underscore: facebook/dinov2-base is
  'dinov2_base'. In a cache of the hub a folder's own name is a hash, and that
  of the model stands two above.
  """
  folder = Path(path)
  if folder.parent.name == "snapshots":
    folder = Path(folder.parent.parent.name.split("--")[-1])
  # Not of the working folder's or a parent's short form, which has no name.
  name = folder.name if folder.name not in ("", "..") else folder.resolve().name
  return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def open_encoder(
  path: str | os.PathLike[str],
  *,
  dtype: str,
  kind: str = "",
) -> EncoderHandle[Any]:
  """Opens an encoder; its weights are read when asked for.

  Args:
    path: a folder in HF format, the name of a bundled asset ('tiny_clip') or
      one on the hub.
    dtype: compute type.
    kind: the model_type that is expected; '' for any of `FORMATS`.

  Raises:
    UserError: says which file is wrong and how.
  """
  folder = locate.resolve(path)
  forms.check(folder)
  config = safetensors_io.read_config(folder)
  kind = kind or config.get("model_type", "")
  if kind not in FORMATS:
    raise UserError(
      f"{folder}/config.json has model_type {kind!r}; expected"
      f" {' or '.join(map(repr, FORMATS))}: give the folder of a whole encoder"
      " of images, such as facebook/dinov2-base"
    )
  form = FORMATS[kind]
  preprocessor = settings.image_settings(folder)
  if not preprocessor:
    raise UserError(
      f"{folder} has neither {settings.PREPROCESSOR} nor an image processor in"
      f" {settings.PROCESSOR}: take the file of the same model, whose mean and"
      " deviation of pixels it holds"
    )
  model = form.config_from_hf(config, preprocessor, dtype=dtype)
  shapes = parameters.shapes_of(model)
  stored = parameters.find(
    folder,
    form.rules(model),
    safetensors_io.open_tensors(folder),
    shapes,
    ignore=form.IGNORED,
  )
  tokenizer = None
  if model.text_positions:
    tokenizer = read_tokenizer(folder)
    # A tokenizer that does not say how long a text may be says 1e30.
    tokenizer.model_max_length = min(
      tokenizer.model_max_length, model.text_positions
    )
  return EncoderHandle(name_of(path), model, tokenizer, shapes, stored)
