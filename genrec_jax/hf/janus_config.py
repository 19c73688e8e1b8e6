"""config.json of Janus <-> the model's sizes."""

from collections.abc import Mapping
from typing import Any

import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, llama
from genrec_jax.hf import vqgan as hf_vqgan
from genrec_jax.models.janus import Janus
from genrec_jax.models.siglip import Siglip
from genrec_jax.nn.layers import ACTIVATIONS


def config_from_hf(
  config: Mapping[str, Any], *, bos_id: int, pad_id: int, boi_id: int
) -> Janus:
  """Returns the model of an HF config, computing in float32.

  Args:
    config: config.json; keys that it leaves out have HF's defaults.
    bos_id: beginning of sequence; these ids are not in config.json, see
      `janus_settings.special_ids`.
    pad_id: padding.
    boi_id: begin of image.

  Raises:
    UserError: not a Janus model, or one that this code cannot reproduce;
      lists all that does not fit.
  """
  if config.get("model_type") != "janus":
    raise UserError(
      f"config.json has model_type {config.get('model_type')!r}; expected"
      " 'janus'; give the folder of a Janus model in HF format, such as"
      " deepseek-community/Janus-Pro-1B"
    )
  whole, faults = defaults.fill(transformers.JanusConfig, config)
  # A section is absent only where transformers refuses the config.
  text, vision, vq = (
    whole.get(name) or {}
    for name in ("text_config", "vision_config", "vq_config")
  )
  problems = [*_problems(text, vision, vq), *faults]
  if problems:
    raise UserError(listed("unsupported Janus config:", problems))
  try:
    return Janus(
      language=llama.from_config(text, tied=whole["tie_word_embeddings"]),
      vision=Siglip(
        width=vision["hidden_size"],
        # As transformers computes it.
        mlp_width=int(vision["hidden_size"] * vision["mlp_ratio"]),
        num_layers=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        activation=vision["hidden_act"],
        attention_bias=vision["attention_bias"],
        norm_epsilon=vision["layer_norm_eps"],
      ),
      tokenizer=hf_vqgan.config_from_hf(vq),
      bos_id=bos_id,
      pad_id=pad_id,
      boi_id=boi_id,
      image_id=whole["image_token_id"],
      aligner_depth=vision["depth"],
      aligner_activation=vision["hidden_act"],
      image_aligner_depth=vq["num_hidden_layers"],
      image_activation=vq["hidden_act"],
    )
  except ValueError as error:  # sizes that the parts refuse
    raise UserError(f"unsupported Janus config: {error}") from None


def _problems(
  text: Mapping[str, Any], vision: Mapping[str, Any], vq: Mapping[str, Any]
) -> list[str]:
  """Returns what the model cannot reproduce; a key left out is no problem."""
  width = text.get("hidden_size")
  problems = defaults.mismatches("text_config", text, {"model_type": "llama"})
  problems += llama.problems("text_config", text)
  # What the language model reads must have its width.
  expected = {"num_channels": 3, "use_qk_norm": False, "projection_dim": width}
  image, patch = (vision.get(key) for key in ("image_size", "patch_size"))
  if isinstance(image, int) and isinstance(patch, int):
    expected["num_image_tokens"] = (image // patch) ** 2
  elif not (image is None or patch is None):
    problems.append(
      f"vision_config: image_size and patch_size are {(image, patch)}; expected"
      " integers"
    )
  problems += defaults.mismatches("vision_config", vision, expected)
  expected = dict.fromkeys(("projection_dim", "image_token_embed_dim"), width)
  problems += defaults.mismatches("vq_config", vq, expected)
  problems += [
    f"{section}: hidden_act is {values['hidden_act']!r}; expected one of"
    f" {', '.join(ACTIVATIONS)}"
    for section, values in (("vision_config", vision), ("vq_config", vq))
    if values.get("hidden_act", "gelu") not in ACTIVATIONS
  ]
  # Heads are shares of these, which transformers checks in part only.
  for section, values, part, whole in (
    ("text_config", text, "num_key_value_heads", "num_attention_heads"),
    ("vision_config", vision, "num_attention_heads", "hidden_size"),
  ):
    if values.get(part) and values.get(whole, 0) % values[part]:
      problems.append(
        f"{section}: {whole} {values[whole]} is not a multiple of"
        f" {part} {values[part]}"
      )
  return problems


def config_to_hf(
  janus: Janus, *, eos_id: int, max_positions: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns config.json and generation_config.json of a model.

  Args:
    janus: the model.
    eos_id: end of sequence, which generating images does not need.
    max_positions: longest sequence; recorded, not enforced.
  """
  language, vision, vq = janus.language, janus.vision, janus.tokenizer
  # Every size is written out: defaults are another model's.
  ids = {
    "bos_token_id": janus.bos_id,
    "eos_token_id": eos_id,
    "pad_token_id": janus.pad_id,
  }
  config = {
    "architectures": ["JanusForConditionalGeneration"],
    "model_type": "janus",
    "image_token_id": janus.image_id,
    "tie_word_embeddings": language.tied,
    "text_config": {
      "model_type": "llama",
      **llama.to_config(language),
      "hidden_act": "silu",
      "max_position_embeddings": max_positions,
      "tie_word_embeddings": language.tied,
      **ids,
    },
    "vision_config": {
      "model_type": "janus_vision_model",
      "hidden_size": vision.width,
      # transformers keeps the quotient: `config_from_hf` multiplies again.
      "mlp_ratio": vision.mlp_width / vision.width,
      "num_hidden_layers": vision.num_layers,
      "num_attention_heads": vision.num_heads,
      "image_size": vision.image_size,
      "patch_size": vision.patch_size,
      "num_image_tokens": vision.num_patches,
      "hidden_act": vision.activation,
      "layer_norm_eps": vision.norm_epsilon,
      "attention_bias": vision.attention_bias,
      # Fields of the aligner, which has no section.
      "projection_dim": language.width,
      "depth": janus.aligner_depth,
    },
    "vq_config": {
      "model_type": "janus_vqgan",
      "embed_dim": vq.embed_dim,
      "num_embeddings": vq.num_embeddings,
      "latent_channels": vq.latent_channels,
      "in_channels": vq.in_channels,
      "out_channels": vq.out_channels,
      "base_channels": vq.base_channels,
      "channel_multiplier": list(vq.channel_multiplier),
      "num_res_blocks": vq.num_res_blocks,
      "num_patches": vision.image_size // vision.patch_size,  # along a side
      "projection_dim": language.width,
      "image_token_embed_dim": language.width,
      "num_hidden_layers": janus.image_aligner_depth,
      "hidden_act": janus.image_activation,
    },
  }
  generation = {
    **ids,
    "guidance_scale": 5,  # as published checkpoints have it
    "generation_kwargs": {"boi_token_id": janus.boi_id},
  }
  return config, generation
