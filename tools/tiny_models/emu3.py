"""Emu3 of the small world: it reads images as the codes that it generates."""

from pathlib import Path
from typing import Any

import jax
import transformers

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.hf import emu3 as hf_emu3
from genrec_jax.hf import emu3_vocabulary, safetensors_io, write_model
from genrec_jax.hf.emu3_processor import Emu3Processor
from genrec_jax.hf.rules import to_hf
from genrec_jax.models.emu3 import Emu3

from . import image_tokenizers
from .tokens import EMU3_TOKENS, INSTRUCTIONS, train_tokenizer
from .training import write_json

# Images of a turn, then its words, as Emu3-Chat's.
_CHAT = """\
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}
{{ message['role'].upper() + ': ' }}
{%- endif -%}
{%- for part in message['content'] -%}
{{ '<image>' if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{{ ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
_SIZES = {  # of the language model, 0.7 M parameters
  "hidden_size": 128,
  "intermediate_size": 256,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 1024,
}


def write_settings(folder: Path) -> None:
  """Writes all of a folder in HF format but the weights."""
  tokens = _tokens()
  side = world.IMAGE_SIZE
  ids = {
    f"{name}_token_id": getattr(tokens, f"{name}_token_id")
    for name in ("bos", "eos", "pad")
  }
  tokens.save_pretrained(folder)
  (folder / "chat_template.jinja").write_text(_CHAT)
  write_json(folder / "config.json", _config(tokens.get_vocab(), ids))
  write_json(folder / "generation_config.json", ids)
  write_json(
    folder / "preprocessor_config.json",
    {
      "image_processor_type": "Emu3ImageProcessor",
      "do_resize": True,
      "do_rescale": True,
      "do_normalize": True,
      "image_mean": [0.5, 0.5, 0.5],
      "image_std": [0.5, 0.5, 0.5],
      "max_pixels": side**2,  # transformers: any image becomes as large
      "min_pixels": side**2,
      "resample": 3,
      "rescale_factor": 1 / 255,
      "spatial_factor": image_tokenizers.EMU3.downsampling,
    },
  )


def open_settings(folder: Path) -> tuple[Emu3, Emu3Processor]:
  """Returns the model and the processor that `write_settings` describes."""
  config = safetensors_io.read_config(folder)
  processor = hf_emu3.open_processor(folder, config)
  model = hf_emu3.model_from_hf(config, processor, {})
  return model.with_compute(dtype="float32", remat="full"), processor


def write(folder: Path, model: Emu3, params: PyTree, settings: Path) -> None:
  """Writes a model in HF format, as the settings say."""
  write_model.write(
    folder,
    safetensors_io.read_config(settings),
    to_hf(hf_emu3.rules(model), jax.device_get(params)),
    dtype="bfloat16",
    source=settings,
  )


def _tokens() -> transformers.PreTrainedTokenizerFast:
  """Returns the tokenizer: words of the world, and a token for each code."""
  codes = range(image_tokenizers.EMU3.codebook_size)
  visual = [f"<|visual token {code:06d}|>" for code in codes]
  return train_tokenizer(
    EMU3_TOKENS,
    "",
    _SIZES["max_position_embeddings"],
    more=[*visual, emu3_vocabulary.ROW_END],
    texts=(
      *INSTRUCTIONS,
      "You are a helpful assistant. USER:",
      " ASSISTANT:",
      # A title that is an answer begins with a space.
      *(f" {size}" for size in world.ATTRIBUTES["size"]),
    ),
  )


def _config(vocabulary: dict[str, int], ids: dict[str, int]) -> dict[str, Any]:
  """Returns config.json, with the sizes of images."""
  vq = image_tokenizers.EMU3
  levels = vq.channel_multiplier
  return {
    "architectures": ["Emu3ForConditionalGeneration"],
    "model_type": "emu3",
    "tie_word_embeddings": False,
    "image_size": world.IMAGE_SIZE,
    "read_size": world.IMAGE_SIZE,
    "text_config": {
      "model_type": "emu3_text_model",
      "vocab_size": -(-len(vocabulary) // 8) * 8,
      "hidden_act": "silu",
      "rms_norm_eps": 1e-6,
      # Of prompts of hundreds of tokens, not thousands.
      "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
      "tie_word_embeddings": False,
      **_SIZES,
      **ids,
    },
    "vq_config": {
      "model_type": "emu3_vqgan",
      "codebook_size": vq.codebook_size,
      "embed_dim": vq.embed_dim,
      "latent_channels": vq.latent_channels,
      "in_channels": vq.in_channels,
      "out_channels": vq.out_channels,
      "base_channels": vq.base_channels,
      "channel_multiplier": list(levels),
      "num_res_blocks": vq.num_res_blocks,
      "temporal_downsample_factor": vq.temporal_downsample_factor,
      "attn_resolutions": [len(levels) - 1],
      "hidden_size": vq.base_channels * levels[-1],
    },
    "vocabulary_map": vocabulary,
  }
