"""Encoders of an evaluation: the judges, which reward nothing.

Letters: P users, G images each, E the width of an encoder's embeddings, B
texts.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree
from genrec_jax.evals.compiled import compile_rows
from genrec_jax.hf import encoders, workdir_model
from genrec_jax.hf.encoders import QUALITY_PREFIX, EncoderHandle
from genrec_jax.models.encoders import ImageEncoder


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """An encoder on the devices.

  Attributes:
    name: stands in the names of its metrics.
    model: the architecture.
    params: its parameters, on the devices.
    tokenizer: of its checkpoint; None: it has no text tower.
    mesh: the rows of a batch are split over it.
    rates: it scores `quality` and nothing else.
  """

  name: str
  model: ImageEncoder
  params: PyTree  # float32
  tokenizer: Any
  mesh: Mesh
  rates: bool = False

  def embed_images(self, images: np.ndarray | jax.Array) -> jax.Array:
    """Returns unit vectors [P, G, E] float32 of uint8 images [P, G, h, w, 3].

    Images that lie on the devices are read there, and the result stays there.
    P must be a multiple of the mesh's axes of examples.
    """
    return self._embed_images(self.params, images)

  def embed_texts(self, texts: Sequence[str]) -> jax.Array:
    """Returns unit vectors [B, E] float32; texts are cut to what is read.

    B must be a multiple of the mesh's axes of examples. Texts are padded to
    one length: all calls with as many texts share a compilation.

    Raises:
      ValueError: the encoder has no text tower.
    """
    if self.tokenizer is None:
      raise ValueError(f"the encoder {self.name} has no text tower")
    tokens = tokenize(
      self.tokenizer, texts, reads_padding=self.model.reads_padding
    )
    return self._embed_texts(self.params, tokens)

  # Compiled at the first call and kept, so that all models and baselines share
  # one compilation for each shape.

  @functools.cached_property
  def _embed_images(self):
    return compile_rows(functools.partial(embed_uint8, self.model), self.mesh)

  @functools.cached_property
  def _embed_texts(self):
    def embed_texts(params, tokens):
      return self.model.embed_texts(params, *tokens)

    return compile_rows(embed_texts, self.mesh)


def embed_uint8(
  model: ImageEncoder, params: PyTree, images: jax.Array
) -> jax.Array:
  """Returns unit vectors [..., E] of uint8 images [..., h, w, 3]; no jit."""
  # Pixels are in [0, 1]; each model resizes and normalises for itself.
  return model.embed_images(params, images.astype(jnp.float32) / 255)


def tokenize(
  tokenizer: Any, texts: Sequence[str], *, reads_padding: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids [B, W] int32 and mask [B, W] of texts, W the longest of any.

  Args:
    tokenizer: of an encoder.
    texts: B of them; cut to W.
    reads_padding: of the encoder, see `models.encoders.ImageEncoder`.
  """
  # To `model_max_length`, which is no more than the model has positions for.
  tokens = tokenizer(
    list(texts),
    padding="max_length",
    padding_side="right",
    truncation=True,
    return_tensors="np",
  )
  ids = tokens["input_ids"].astype(np.int32)
  if reads_padding:
    return ids, np.ones(ids.shape, bool)
  return ids, tokens["attention_mask"].astype(bool)


def open_rater(path: str, *, dtype: str) -> EncoderHandle[Any] | None:
  """Opens the checkpoint of PickScore's format of a run; None: it has none.

  Args:
    path: `config.eval.quality`.
    dtype: compute type.

  Raises:
    UserError: it is no CLIP, or one that cannot be used.
  """
  if not path:
    return None
  handle = encoders.open_encoder(path, dtype=dtype, kind="clip")
  # Its name is that of its one metric, and so not that of a judge.
  return dataclasses.replace(handle, name=QUALITY_PREFIX + handle.name)


def open_judges(
  paths: Sequence[str], clip: str, *, dtype: str
) -> tuple[EncoderHandle[Any], ...]:
  """Opens the judges of a run; no weight is in memory yet.

  Args:
    paths: `config.eval.judges`; see `config.judges.problems`.
    clip: the reward's CLIP, `config.clip.checkpoint`.
    dtype: compute type.

  Raises:
    UserError: one that cannot be used, or has the weights of the reward's CLIP
      or of another judge.
  """
  handles = tuple(encoders.open_encoder(path, dtype=dtype) for path in paths)
  # By contents: a copy under another name would look like a second opinion.
  seen = {workdir_model.fingerprint(clip): "clip.checkpoint"} if paths else {}
  for path in paths:
    weights = workdir_model.fingerprint(path)
    if weights in seen:
      raise UserError(
        f"eval.judges: {path} has the weights of {seen[weights]}, of which it"
        " is not independent; name an encoder that nothing else names, such as"
        " facebook/dinov2-base"
      )
    seen[weights] = path
  return handles


def read_judges(
  handles: Sequence[EncoderHandle[Any]],
  mesh: Mesh,
  *,
  rater: EncoderHandle[Any] | None = None,
) -> tuple[Encoder, ...]:
  """Reads the weights of judges, and of `open_rater`, onto every device."""
  # They are small next to the generator.
  replicated = NamedSharding(mesh, sharding.REPLICATED)
  return tuple(
    Encoder(
      handle.name,
      handle.model,
      handle.read(jax.tree.map(lambda _: replicated, handle.shapes)),
      handle.tokenizer,
      mesh,
      rates=handle is rater,
    )
    for handle in (*handles, *([] if rater is None else [rater]))
  )
