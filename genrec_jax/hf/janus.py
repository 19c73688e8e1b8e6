"""Janus, as `JanusForConditionalGeneration` of transformers; a `Family`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.hf import janus_config, llama
from genrec_jax.hf import vqgan as hf_vqgan
from genrec_jax.hf.janus_processor import JanusProcessor
from genrec_jax.hf.lazy_array import HFParam
from genrec_jax.hf.rules import (
  Rule,
  conv,
  embedding,
  linear,
  norm,
  prefixed,
)
from genrec_jax.models import janus as models
from genrec_jax.models import janus_presets
from genrec_jax.models.api import Generator
from genrec_jax.models.janus import Janus
from genrec_jax.models.siglip import Siglip

SHARDING: sharding.Rules = models.RULES
PRESETS: Mapping[str, Callable[..., Generator]] = {
  "janus_pro_1b": janus_presets.janus_pro_1b,
  "janus_pro_7b": janus_presets.janus_pro_7b,
}
# Buffers that older code saved; transformers computes them anew, too.
IGNORED: Sequence[str] = (
  r".*\.rotary_emb\.inv_freq",
  r".*\.embeddings\.position_ids",
)
CARRIED: Sequence[str] = ()
RENAMED: Sequence[tuple[str, str]] = ()


def open_processor(folder: Path, config: Mapping[str, Any]) -> JanusProcessor:
  """Reads tokenizer and image settings; see `Family`."""
  del config
  return JanusProcessor.from_pretrained(folder)


def model_from_hf(
  config: Mapping[str, Any],
  processor: JanusProcessor,
  tensors: Mapping[str, Any],
) -> Janus:
  """Returns the model that a folder describes; see `Family`."""
  # Configs leave out that the head is not tied, the default being that it is;
  # as transformers does, believe the weights.
  tied = config.get("tie_word_embeddings", True)
  tied = tied and "lm_head.weight" not in tensors
  return janus_config.config_from_hf(
    {**config, "tie_word_embeddings": tied},
    bos_id=processor.bos_id,
    pad_id=processor.pad_id,
    boi_id=processor.boi_id,
  )


def config_for_export(
  config: Mapping[str, Any], model: Janus
) -> dict[str, Any]:
  """Returns config.json of trained weights; see `Family`."""
  return {**config, "tie_word_embeddings": model.language.tied}


def warnings(stored: Mapping[str, HFParam]) -> list[str]:
  """Returns lines about a checkpoint; see `Family`."""
  # Reads the codebook, less than a megabyte; the rest stays on disk.
  lengths, uneven = codebook_lengths(stored)
  if not uneven:
    return []
  return [
    f"{lengths}: transformers' codes of images differ from those here, which"
    " are the nearest by direction; see tools/check_tokenizer.py"
  ]


def codebook_lengths(stored: Mapping[str, HFParam]) -> tuple[str, bool]:
  """Measures the image tokenizer's codebook vectors.

  Args:
    stored: path -> parameter, the codebook at least.

  Returns:
    A line, and whether they differ by more than their file's type rounds: then
    the nearest code by direction, which is taken here, is not always the
    nearest by distance, which transformers takes; see `VQGAN.quantize`.
  """
  param = stored["tokenizer/quantizer/embedding"]
  book = param.read((slice(None),) * 2, np.float64)  # [C, E]
  lengths = np.linalg.norm(book, axis=-1)  # [C]
  low, mean, high = lengths.min(), lengths.mean(), lengths.max()
  rounding = ml_dtypes.finfo(param.tensors[0].dtype).eps * mean
  line = (
    f"codebook: {len(book):,} vectors of length {low:.4g} to {high:.4g},"
    f" {mean:.4g} on average"
  )
  return line, bool(high - low > rounding)


def rules(janus: Janus) -> tuple[Rule, ...]:
  """Returns the table of `JanusForConditionalGeneration`."""
  head = linear("lm_head", "language/lm_head", bias=False)
  return (
    *prefixed(llama.rules(), "model.language_model.", "language/"),
    *(() if janus.language.tied else head),  # else it is the embedding
    *prefixed(_vision(janus.vision), "model.vision_model.", "vision/"),
    *_aligner("model.aligner", "aligner", janus.aligner_depth),
    *embedding("model.generation_embeddings", "image_head/embed"),
    *_aligner(
      "model.generation_aligner",
      "image_head/aligner",
      janus.image_aligner_depth,
    ),
    *linear("model.generation_head.proj_out", "image_head/head/proj_out"),
    *linear("model.generation_head.vision_head", "image_head/head/vision_head"),
    *prefixed(hf_vqgan.rules(janus.tokenizer), "model.vqmodel.", "tokenizer/"),
  )


def _vision(siglip: Siglip) -> list[Rule]:
  """Returns the table of `JanusVisionModel`, names relative to it."""
  hf, ours = "encoder.layers.{l}", "layers"
  table = [
    *conv("embeddings.patch_embedding", "patch_embedding"),
    *embedding("embeddings.position_embedding", "position_embedding"),
  ]
  for part in ("q_proj", "k_proj", "v_proj"):
    table += linear(
      f"{hf}.self_attn.{part}",
      f"{ours}/self_attn/{part}",
      bias=siglip.attention_bias,
    )
  table += linear(
    f"{hf}.self_attn.projection_layer", f"{ours}/self_attn/projection_layer"
  )
  for part in ("fc1", "fc2"):
    table += linear(f"{hf}.mlp.{part}", f"{ours}/mlp/{part}")
  for part in ("layer_norm1", "layer_norm2"):
    table += norm(f"{hf}.{part}", f"{ours}/{part}")
  return [*table, *norm("post_layernorm", "post_layernorm")]


def _aligner(hf: str, ours: str, depth: int) -> list[Rule]:
  table = [*linear(f"{hf}.fc1", f"{ours}/fc1")]
  for i in range(depth - 1):  # after the first; none if it is alone
    table += linear(f"{hf}.hidden_layers.{i}", f"{ours}/hidden_layers/{i}")
  return table
