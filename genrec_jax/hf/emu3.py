"""Emu3, as `Emu3ForConditionalGeneration` of transformers; a `Family`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, emu3_vocabulary, llama, movqgan
from genrec_jax.hf.emu3_processor import Emu3Processor
from genrec_jax.hf.lazy_array import HFParam
from genrec_jax.hf.rules import Rule, linear, prefixed
from genrec_jax.models import emu3 as models
from genrec_jax.models import emu3_preset
from genrec_jax.models.api import Generator
from genrec_jax.models.emu3 import Emu3

SHARDING: sharding.Rules = models.RULES
PRESETS: Mapping[str, Callable[..., Generator]] = {"emu3": emu3_preset.emu3}
IGNORED: Sequence[str] = (r".*\.rotary_emb\.inv_freq", movqgan.COUNTERS)
# transformers reports those that lack.
CARRIED: Sequence[str] = (movqgan.COUNTERS,)
# Files on the hub, and those that transformers writes, have older names than
# its modules.
RENAMED: Sequence[tuple[str, str]] = (
  (r"^text_model\.lm_head\.", "lm_head."),
  (r"^text_model\.model\.", "model.text_model."),
  (r"^vqmodel\.", "model.vqmodel."),
)


def open_processor(folder: Path, config: Mapping[str, Any]) -> Emu3Processor:
  """Reads tokenizer and image settings; see `Family`."""
  return Emu3Processor.from_pretrained(folder, config)


def model_from_hf(
  config: Mapping[str, Any],
  processor: Emu3Processor,
  tensors: Mapping[str, Any],
) -> Emu3:
  """Returns the model that a folder describes; see `Family`."""
  del tensors
  whole, faults = defaults.fill(
    transformers.Emu3Config,
    # Not looked into there, and 6.5 MB to copy.
    {k: v for k, v in config.items() if k != "vocabulary_map"},
  )
  vocabulary = emu3_vocabulary.of_config(config)
  # A section is absent only where transformers refuses the config.
  text, vq = (whole.get(name) or {} for name in ("text_config", "vq_config"))
  problems = [*faults, *llama.problems("text_config", text)]
  code_ids: range | tuple[int, ...] = ()
  if not faults:
    problems += movqgan.problems(vq)
    problems += emu3_vocabulary.mismatches(
      vocabulary, processor.tokenizer.get_vocab(), text["vocab_size"]
    )
    code_ids, more = emu3_vocabulary.code_ids(vocabulary, vq["codebook_size"])
    problems += more
  if problems:
    raise UserError(listed("unsupported Emu3 config:", problems))
  row_end = vocabulary[emu3_vocabulary.ROW_END]
  # The begin of an image is left: it ends a title.
  silent = {
    processor.eoi_id,
    processor.wrapper_id,
    processor.frame_end_id,
    processor.image_id,
    processor.bos_id,
    processor.pad_id,
    row_end,
  }
  try:
    return Emu3(
      language=llama.from_config(text, tied=whole["tie_word_embeddings"]),
      tokenizer=movqgan.config_from_hf(vq),
      bos_id=processor.bos_id,
      pad_id=processor.pad_id,
      image_id=processor.image_id,
      row_end_id=row_end,
      image_begin=processor.image_begin,
      code_ids=code_ids,
      silent_ids=tuple(sorted(silent - {*processor.end_ids})),
      image_size=processor.image_size,
      read_size=processor.read_size,
      pixel_mean=processor.pixel_mean,
      pixel_std=processor.pixel_std,
    )
  except ValueError as error:  # sizes that the parts refuse
    raise UserError(f"unsupported Emu3 config: {error}") from None


def config_for_export(config: Mapping[str, Any], model: Emu3) -> dict[str, Any]:
  """Returns config.json of trained weights; see `Family`.

  With the sizes of images, which transformers has none of.
  """
  sizes = {"image_size": model.image_size, "read_size": model.read_size}
  return {**config, **sizes}


def warnings(stored: Mapping[str, HFParam]) -> list[str]:
  """Returns lines about a checkpoint; see `Family`."""
  del stored
  return []


def rules(emu3: Emu3) -> tuple[Rule, ...]:
  """Returns the table of `Emu3ForConditionalGeneration`."""
  head = linear("lm_head", "language/lm_head", bias=False)
  return (
    *prefixed(llama.rules(), "model.text_model.", "language/"),
    *(() if emu3.language.tied else head),  # else it is the embedding
    *prefixed(movqgan.rules(emu3.tokenizer), "model.vqmodel.", "tokenizer/"),
  )
