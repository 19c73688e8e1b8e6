"""Writes a generator as `JanusForConditionalGeneration` loads it."""

import os

from genrec_jax.core.types import PyTree
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import safetensors_io
from genrec_jax.hf.rules import to_hf
from genrec_jax.models.janus import Janus


def export_generator(
  folder: str | os.PathLike[str],
  model: Janus,
  params: PyTree,
  source: str | os.PathLike[str],
  dtype: str,
) -> None:
  """Writes weights, config, tokenizer and processor; all of it or nothing.

  Args:
    folder: where to; absent or empty.
    model: the generator.
    params: its parameters.
    source: an HF-format folder of the same model, for all but the weights.
    dtype: what the weights are stored as, such as 'bfloat16'.

  Raises:
    UserError: the folder is not empty or cannot be written.
  """
  config = safetensors_io.read_config(source)
  sections = [value for value in config.values() if isinstance(value, dict)]
  for section in (config, *sections):
    for key in ("dtype", "torch_dtype"):  # of transformers 5 and 4
      if key in section:
        section[key] = dtype
  config["dtype"] = dtype
  config["tie_word_embeddings"] = model.language.tied
  safetensors_io.write(
    folder,
    config,
    to_hf(hf_janus.rules(model), params),
    dtype=dtype,
    source=source,
  )
