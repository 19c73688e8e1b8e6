"""SigLIP, as `SiglipModel` of transformers: config, preprocessor, rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, image_processor, towers
from genrec_jax.hf.rules import Rule, conv, embedding, linear, norm
from genrec_jax.models.siglip import Siglip
from genrec_jax.models.siglip_encoder import SiglipEncoder
from genrec_jax.models.tower import Tower

IGNORED: Sequence[str] = (towers.POSITION_IDS,)


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
      **towers.fields(vision),
      image_size=vision["image_size"],
      patch_size=vision["patch_size"],
      output_name="out_proj",
    ),
    text=Tower(**towers.fields(text)),
    preprocessing=pixels,
    vocab_size=text["vocab_size"],
    text_positions=text["max_position_embeddings"],
    **overrides,
  )


def _problems(text: Mapping[str, Any], vision: Mapping[str, Any]) -> list[str]:
  expected = {"num_channels": 3, "vision_use_head": True}
  problems = defaults.mismatches("vision_config", vision, expected)
  problems += towers.problems("text_config", text)
  problems += towers.problems(
    "vision_config", vision, ("image_size", "patch_size")
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
    *towers.rules("text_model"),
    *norm("text_model.final_layer_norm", "text_model/final_layer_norm"),
    *linear("text_model.head", "text_model/head"),
    *conv(f"{vision}.patch_embedding", "vision_model/patch_embedding"),
    *towers.rules("vision_model"),
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
