"""SigLIP, as `SiglipModel` of transformers: config, preprocessor, rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, image_processor
from genrec_jax.hf.rules import Rule, conv, embedding, linear, norm, tower
from genrec_jax.models.siglip import Siglip
from genrec_jax.models.siglip_encoder import SiglipEncoder
from genrec_jax.models.tower import Tower
from genrec_jax.nn.layers import ACTIVATIONS

# Buffers that old checkpoints saved; transformers ignores them too.
IGNORED: Sequence[str] = (r"(text|vision)_model\.embeddings\.position_ids",)

# Fields of either tower by their HF names.
_TOWER = {
  "hidden_size": "width",
  "intermediate_size": "mlp_width",
  "num_hidden_layers": "num_layers",
  "num_attention_heads": "num_heads",
  "hidden_act": "activation",
  "layer_norm_eps": "norm_epsilon",
}


def config_from_hf(
  config: Mapping[str, Any],
  preprocessor: Mapping[str, Any],
  **overrides: Any,
) -> SiglipEncoder:
  """Returns the model of an HF config; see `encoders.Format`."""
  if config.get("model_type") != "siglip":
    raise UserError(
      f"config.json has model_type {config.get('model_type')!r}; expected"
      " 'siglip' with both towers; give the folder of such a model, as"
      " google/siglip-so400m-patch14-384 is"
    )
  # Special tokens are the tokenizer's: the defaults are of another vocabulary,
  # of which transformers would warn.
  ids = {"bos_token_id": None, "eos_token_id": None}
  sections = {"text_config": {**ids, **(config.get("text_config") or {})}}
  whole, problems = defaults.fill(
    transformers.SiglipConfig, {**config, **sections}
  )
  text, vision = (
    whole.get(name) or {} for name in ("text_config", "vision_config")
  )
  if not problems:
    problems = _problems(text, vision)
  pixels, refused = image_processor.preprocessing(preprocessor, "Siglip")
  problems += refused
  # transformers would run on no other size either.
  if pixels is not None and vision.get("image_size") != pixels.crop:
    problems.append(
      f"preprocessor: images become {pixels.crop} pixels a side; expected the"
      f" model's image_size {vision.get('image_size')}"
    )
  if problems or pixels is None:
    raise UserError(listed("unsupported SigLIP config:", problems))
  return SiglipEncoder(
    vision=Siglip(
      **{ours: vision[hf] for hf, ours in _TOWER.items()},
      image_size=vision["image_size"],
      patch_size=vision["patch_size"],
      output_name="out_proj",
    ),
    text=Tower(**{ours: text[hf] for hf, ours in _TOWER.items()}),
    preprocessing=pixels,
    vocab_size=text["vocab_size"],
    text_positions=text["max_position_embeddings"],
    **overrides,
  )


def _problems(text: Mapping[str, Any], vision: Mapping[str, Any]) -> list[str]:
  expected = {"num_channels": 3, "vision_use_head": True}
  problems = defaults.mismatches("vision_config", vision, expected)
  problems += [
    f"vision_config: {key} is {vision[key]!r}; expected one integer"
    for key in ("image_size", "patch_size")
    if not isinstance(vision[key], int)
  ]
  for name, section in (("text_config", text), ("vision_config", vision)):
    if section["hidden_act"] not in ACTIVATIONS:
      problems.append(
        f"{name}: hidden_act is {section['hidden_act']!r}; expected one of"
        f" {', '.join(ACTIVATIONS)}"
      )
    width, heads = section["hidden_size"], section["num_attention_heads"]
    if width % heads:
      problems.append(
        f"{name}: hidden_size {width} is not a multiple of num_attention_heads"
        f" {heads}"
      )
  if text["projection_size"] != vision["hidden_size"]:
    problems.append(
      f"text_config: projection_size is {text['projection_size']}; expected"
      f" hidden_size of vision_config, {vision['hidden_size']}"
    )
  return problems


def rules(model: SiglipEncoder) -> tuple[Rule, ...]:
  """Returns the table of `SiglipModel`; it is the same for every size."""
  del model  # an argument as in the other tables
  vision, text = "vision_model.embeddings", "text_model.embeddings"
  head, ours = "vision_model.head", "vision_model/head"
  return (
    *embedding(f"{text}.token_embedding", "text_model/token_embedding"),
    *tower("text_model"),
    *norm("text_model.final_layer_norm", "text_model/final_layer_norm"),
    *linear("text_model.head", "text_model/head"),
    *conv(f"{vision}.patch_embedding", "vision_model/patch_embedding"),
    *tower("vision_model"),
    *norm("vision_model.post_layernorm", "vision_model/post_layernorm"),
    Rule(f"{head}.probe", f"{ours}/probe", "same"),
    # torch's own layer, which has no names for the three.
    Rule(
      f"{head}.attention.in_proj_weight",
      f"{ours}/attention/in_proj/kernel",
      "linear",
    ),
    Rule(
      f"{head}.attention.in_proj_bias", f"{ours}/attention/in_proj/bias", "same"
    ),
    *linear(f"{head}.attention.out_proj", f"{ours}/attention/out_proj"),
    *norm(f"{head}.layernorm", f"{ours}/layernorm"),
    *linear(f"{head}.mlp.fc1", f"{ours}/mlp/fc1"),
    *linear(f"{head}.mlp.fc2", f"{ours}/mlp/fc2"),
    Rule("logit_scale", "logit_scale", "same"),
    Rule("logit_bias", "logit_bias", "same"),
  )
