"""DINOv2, as `Dinov2Model` of transformers: config, preprocessor, rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, image_processor, towers
from genrec_jax.hf.rules import Rule, conv, linear, norm
from genrec_jax.models.dinov2 import Dinov2
from genrec_jax.models.tower import Tower

# Stands for patches that are hidden, which is done in its training only.
IGNORED: Sequence[str] = (r"embeddings\.mask_token",)


def config_from_hf(
  config: Mapping[str, Any],
  preprocessor: Mapping[str, Any],
  **overrides: Any,
) -> Dinov2:
  """Returns the model of an HF config; see `encoders.Format`."""
  if config.get("model_type") != "dinov2":
    raise UserError(
      f"config.json has model_type {config.get('model_type')!r}; expected"
      " 'dinov2', without registers; give the folder of such a model, as"
      " facebook/dinov2-base is"
    )
  whole, problems = defaults.fill(transformers.Dinov2Config, config)
  if whole.get("use_swiglu_ffn"):
    # The gate has its own, whatever hidden_act is.
    whole["hidden_act"] = "silu"
  if not problems:
    problems = defaults.mismatches("config", whole, {"num_channels": 3})
    problems += towers.problems("config", whole, ("image_size", "patch_size"))
  pixels, refused = image_processor.preprocessing(preprocessor, "Bit")
  problems += refused
  if problems or pixels is None:
    raise UserError(listed("unsupported DINOv2 config:", problems))
  return Dinov2(
    vision=Tower(
      **towers.fields(whole | {"intermediate_size": _mlp_width(whole)}),
      qkv_bias=whole["qkv_bias"],
      layer_scale=True,
      gated=whole["use_swiglu_ffn"],
    ),
    preprocessing=pixels,
    image_size=whole["image_size"],
    patch_size=whole["patch_size"],
    **overrides,
  )


def _mlp_width(config: Mapping[str, Any]) -> int:
  """Returns the width of the hidden layer; of each of its halves if gated."""
  width = int(config["hidden_size"] * config["mlp_ratio"])
  if not config["use_swiglu_ffn"]:
    return width
  # Two thirds of it, rounded up to a multiple of 8.
  return (int(width * 2 / 3) + 7) // 8 * 8


def config_to_hf(model: Dinov2) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns config.json and preprocessor_config.json of a model.

  Raises:
    ValueError: a model that the format has no fields for.
  """
  tower, pixels = model.vision, model.preprocessing
  ratio, rest = divmod(tower.mlp_width, tower.width)
  if tower.gated or not tower.layer_scale or rest:
    raise ValueError(f"no config of transformers describes {tower}")
  config = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": tower.width,
    "mlp_ratio": ratio,
    "num_hidden_layers": tower.num_layers,
    "num_attention_heads": tower.num_heads,
    "hidden_act": tower.activation,
    "layer_norm_eps": tower.norm_epsilon,
    "qkv_bias": tower.qkv_bias,
    "image_size": model.image_size,
    "patch_size": model.patch_size,
    "num_channels": 3,
    "use_swiglu_ffn": False,
    "use_mask_token": False,  # of its training only
  }
  preprocessor = image_processor.settings_of(pixels, "Bit")
  return config, preprocessor


def rules(model: Dinov2) -> tuple[Rule, ...]:
  """Returns the table of `Dinov2Model`, names as in published files."""
  # {l}: all layers are one parameter of ours.
  hf, ours, bias = "encoder.layer.{l}", "layers", model.vision.qkv_bias
  table = [
    Rule("embeddings.cls_token", "class_embedding", "same"),
    Rule("embeddings.position_embeddings", "position_embedding", "same"),
    *conv("embeddings.patch_embeddings.projection", "patch_embedding"),
  ]
  for part, name in (
    ("query", "q_proj"),
    ("key", "k_proj"),
    ("value", "v_proj"),
  ):
    table += linear(
      f"{hf}.attention.attention.{part}", f"{ours}/self_attn/{name}", bias=bias
    )
  table += linear(f"{hf}.attention.output.dense", f"{ours}/self_attn/out_proj")
  first, second = (
    ("weights_in", "weights_out") if model.vision.gated else ("fc1", "fc2")
  )
  table += linear(f"{hf}.mlp.{first}", f"{ours}/mlp/fc1")
  table += linear(f"{hf}.mlp.{second}", f"{ours}/mlp/fc2")
  for number in "12":
    table += norm(f"{hf}.norm{number}", f"{ours}/layer_norm{number}")
    table.append(
      Rule(
        f"{hf}.layer_scale{number}.lambda1",
        f"{ours}/layer_scale{number}",
        "same",
      )
    )
  return (*table, *norm("layernorm", "layernorm"))
