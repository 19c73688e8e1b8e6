"""Janus of the small world."""

from pathlib import Path

import jax
import transformers

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.hf import janus_config
from genrec_jax.hf.janus_processor import CHAT
from genrec_jax.models import llama, siglip
from genrec_jax.models.janus import Janus

from . import image_tokenizers
from .tokens import JANUS_TOKENS
from .training import write_json


def tiny_janus(tokens: transformers.PreTrainedTokenizerBase) -> Janus:
  """Returns the model: 32-pixel images of 16 codes, 1.9 M parameters."""
  vocabulary = tokens.get_vocab()
  return Janus(
    language=llama.Llama(
      vocab_size=-(-len(tokens) // 8) * 8,  # so that small meshes divide it
      width=128,
      mlp_width=256,
      num_layers=4,
      num_heads=4,
      num_kv_heads=2,
      head_width=32,
      remat="full",
    ),
    vision=siglip.Siglip(
      width=72,
      mlp_width=288,
      num_layers=2,
      num_heads=4,
      image_size=world.IMAGE_SIZE,
      patch_size=8,
    ),
    tokenizer=image_tokenizers.JANUS,
    bos_id=tokens.bos_token_id,
    pad_id=tokens.pad_token_id,
    boi_id=vocabulary[JANUS_TOKENS["boi_token"]],
    image_id=vocabulary[JANUS_TOKENS["image_token"]],
  )


def start(model: Janus, seed: int, vq_params: PyTree) -> PyTree:
  """Returns random parameters on a trained image tokenizer."""
  params = model.init(jax.random.key(seed)) | {"tokenizer": vq_params}
  # Codes start where the tokenizer put them, so near codes look alike.
  params["image_head"]["embed"]["embedding"] = vq_params["quantizer"][
    "embedding"
  ]
  return params


def write_settings(
  folder: Path, model: Janus, tokens: transformers.PreTrainedTokenizerFast
) -> None:
  """Writes all of a folder in HF format but the weights."""
  config, generation = janus_config.config_to_hf(
    model, eos_id=tokens.eos_token_id, max_positions=4096
  )
  side = model.image_size
  tokens.save_pretrained(folder)
  (folder / "chat_template.jinja").write_text(CHAT)
  write_json(folder / "config.json", config)
  write_json(folder / "generation_config.json", generation)
  write_json(
    folder / "preprocessor_config.json",
    {
      "image_processor_type": "JanusImageProcessor",
      "do_resize": True,
      "do_rescale": True,
      "do_normalize": True,
      "do_pad": True,
      "image_mean": [0.5, 0.5, 0.5],
      "image_std": [0.5, 0.5, 0.5],
      "min_size": 14,
      "resample": 3,
      "rescale_factor": 1 / 255,
      "size": {"height": side, "width": side},
    },
  )
