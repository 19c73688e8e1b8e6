"""HF Janus checkpoints (`JanusForConditionalGeneration`)."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import vqgan as hf_vqgan
from genrec_jax.hf.rules import (
  Rule,
  conv,
  embedding,
  linear,
  norm,
  prefixed,
)
from genrec_jax.models.janus import Janus
from genrec_jax.models.llama import Llama
from genrec_jax.models.siglip import Siglip
from genrec_jax.nn.layers import ACTIVATIONS

# Buffers that older code saved; transformers computes them anew, too.
IGNORED = (r".*\.rotary_emb\.inv_freq", r".*\.embeddings\.position_ids")

# Defaults of transformers 5.23, which saved configs may leave out.
_TEXT = {
  "model_type": "llama",
  "vocab_size": 32000,
  "hidden_size": 4096,
  "intermediate_size": 11008,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "num_key_value_heads": None,
  "head_dim": None,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "attention_bias": False,
  "mlp_bias": False,
}
_VISION = {
  "hidden_size": 1024,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "num_channels": 3,
  "image_size": 384,
  "patch_size": 16,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-6,
  "mlp_ratio": 4.0,
  "attention_bias": True,
  "projection_dim": 2048,
  "use_qk_norm": False,
  "depth": 2,
  "num_image_tokens": 576,
}
_VQ = {
  "projection_dim": 2048,
  "image_token_embed_dim": 2048,
  "num_hidden_layers": 2,
  "hidden_act": "gelu",
}


def config_from_hf(
  config: Mapping[str, Any], *, bos_id: int, pad_id: int, boi_id: int
) -> Janus:
  """Returns the model of an HF config, computing in float32.

  Args:
    config: config.json; keys that it leaves out have HF's defaults.
    bos_id: beginning of sequence; these ids are not in config.json, see
      `processor.Processor`.
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
  text = {**_TEXT, **(config.get("text_config") or {})}
  vision = {**_VISION, **(config.get("vision_config") or {})}
  vq = {**_VQ, **(config.get("vq_config") or {})}
  rope_base, problems = _rope(text)
  problems += _problems(text, vision, vq)
  if problems:
    raise UserError(listed("unsupported Janus config:", problems))
  heads = text["num_attention_heads"]
  try:
    return Janus(
      language=Llama(
        vocab_size=text["vocab_size"],
        width=text["hidden_size"],
        mlp_width=text["intermediate_size"],
        num_layers=text["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=text["num_key_value_heads"] or heads,
        head_width=text["head_dim"] or text["hidden_size"] // heads,
        rope_base=rope_base,
        norm_epsilon=text["rms_norm_eps"],
        tied=config.get("tie_word_embeddings", True),
      ),
      vision=Siglip(
        width=vision["hidden_size"],
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
      image_id=config.get("image_token_id", 100581),
      aligner_depth=vision["depth"],
      aligner_activation=vision["hidden_act"],
      image_aligner_depth=vq["num_hidden_layers"],
      image_activation=vq["hidden_act"],
    )
  except ValueError as error:
    raise UserError(f"unsupported Janus config: {error}") from None


def _rope(text: Mapping[str, Any]) -> tuple[float, list[str]]:
  """Returns the RoPE base, and what of RoPE is not supported."""
  # transformers 4 had a base and an optional scaling, 5 has both in one.
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  kind = rope.get("rope_type", rope.get("type", "default"))
  base = rope.get("rope_theta", text.get("rope_theta", 10000.0))
  if kind == "default":
    return float(base), []
  return base, [f"text_config: rope_type is {kind!r}; expected 'default'"]


def _problems(
  text: Mapping[str, Any], vision: Mapping[str, Any], vq: Mapping[str, Any]
) -> list[str]:
  """Says what the model cannot reproduce."""
  problems = []

  def expect(section, values, key, expected):
    if values[key] != expected:
      problems.append(
        f"{section}: {key} is {values[key]!r}; expected {expected!r}"
      )

  expect("text_config", text, "model_type", "llama")
  expect("text_config", text, "hidden_act", "silu")
  expect("text_config", text, "attention_bias", False)
  expect("text_config", text, "mlp_bias", False)
  expect("vision_config", vision, "num_channels", 3)
  expect("vision_config", vision, "use_qk_norm", False)
  for section, values in (("vision_config", vision), ("vq_config", vq)):
    if values["hidden_act"] not in ACTIVATIONS:
      problems.append(
        f"{section}: hidden_act is {values['hidden_act']!r}; expected one of"
        f" {', '.join(ACTIVATIONS)}"
      )
    # What the language model reads must have its width.
    expect(section, values, "projection_dim", text["hidden_size"])
  expect("vq_config", vq, "image_token_embed_dim", text["hidden_size"])
  sizes = (vision["image_size"], vision["patch_size"])
  if not all(isinstance(size, int) for size in sizes):
    problems.append(
      f"vision_config: image_size and patch_size are {sizes}; expected integers"
    )
  else:
    expect(
      "vision_config", vision, "num_image_tokens", (sizes[0] // sizes[1]) ** 2
    )
  groups = (
    ("text_config", text, "num_key_value_heads", "num_attention_heads"),
    ("vision_config", vision, "num_attention_heads", "hidden_size"),
  )
  for section, values, part, whole in groups:
    if values[part] and values[whole] % values[part]:
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
    eos_id: end of sequence, which drawing images does not need.
    max_positions: longest sequence; recorded, not enforced.
  """
  language, vision, vq = janus.language, janus.vision, janus.tokenizer
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
      "vocab_size": language.vocab_size,
      "hidden_size": language.width,
      "intermediate_size": language.mlp_width,
      "num_hidden_layers": language.num_layers,
      "num_attention_heads": language.num_heads,
      "num_key_value_heads": language.num_kv_heads,
      "head_dim": language.head_width,
      "hidden_act": "silu",
      "rms_norm_eps": language.norm_epsilon,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": language.rope_base,
      },
      "max_position_embeddings": max_positions,
      "tie_word_embeddings": language.tied,
      **ids,
    },
    "vision_config": {
      "model_type": "janus_vision_model",
      "hidden_size": vision.width,
      "mlp_ratio": vision.mlp_width / vision.width,
      "num_hidden_layers": vision.num_layers,
      "num_attention_heads": vision.num_heads,
      "image_size": vision.image_size,
      "patch_size": vision.patch_size,
      "num_image_tokens": vision.num_patches,
      "hidden_act": vision.activation,
      "layer_norm_eps": vision.norm_epsilon,
      "attention_bias": vision.attention_bias,
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
      "num_patches": vision.image_size // vision.patch_size,
      "projection_dim": language.width,
      "image_token_embed_dim": language.width,
      "num_hidden_layers": janus.image_aligner_depth,
      "hidden_act": janus.image_activation,
    },
  }
  generation = {
    **ids,
    "guidance_scale": 5,
    "generation_kwargs": {"boi_token_id": janus.boi_id},
  }
  return config, generation


def rules(janus: Janus) -> tuple[Rule, ...]:
  """Returns the table of `JanusForConditionalGeneration`."""
  head = linear("lm_head", "language/lm_head", bias=False)
  return (
    *prefixed(_language(), "model.language_model.", "language/"),
    *(() if janus.language.tied else head),
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


def _language() -> list[Rule]:
  hf, ours = "layers.{l}", "layers"
  table = [*embedding("embed_tokens", "embed_tokens")]
  for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
    table += linear(
      f"{hf}.self_attn.{part}", f"{ours}/self_attn/{part}", bias=False
    )
  for part in ("gate_proj", "up_proj", "down_proj"):
    table += linear(f"{hf}.mlp.{part}", f"{ours}/mlp/{part}", bias=False)
  for part in ("input_layernorm", "post_attention_layernorm"):
    table += norm(f"{hf}.{part}", f"{ours}/{part}", bias=False)
  return [*table, *norm("norm", "norm", bias=False)]


def _vision(siglip: Siglip) -> list[Rule]:
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
  for i in range(depth - 1):
    table += linear(f"{hf}.hidden_layers.{i}", f"{ours}/hidden_layers/{i}")
  return table
