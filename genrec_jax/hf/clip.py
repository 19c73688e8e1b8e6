"""HF CLIP checkpoints (`CLIPModel`)."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf.rules import Rule, conv, embedding, linear, norm
from genrec_jax.models.clip import ACTIVATIONS, Clip, Tower

# Buffers that old checkpoints saved; transformers ignores them too.
IGNORED = (r"(text|vision)_model\.embeddings\.position_ids",)

# Defaults of transformers 5.23, which saved configs may leave out.
_TEXT = {
  "vocab_size": 49408,
  "hidden_size": 512,
  "intermediate_size": 2048,
  "num_hidden_layers": 12,
  "num_attention_heads": 8,
  "max_position_embeddings": 77,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "eos_token_id": 49407,
}
_VISION = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "num_channels": 3,
  "image_size": 224,
  "patch_size": 32,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
# Fields of `Tower` by their HF names.
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
  preprocessor: Mapping[str, Any] | None = None,
  **overrides: Any,
) -> Clip:
  """Returns the model of an HF config.

  Args:
    config: config.json; keys that it leaves out have HF's defaults.
    preprocessor: see `settings.image_settings`; None means OpenAI's.
    **overrides: fields that HF configs do not have, such as `dtype`.

  Raises:
    UserError: not a CLIP model, or one that this code cannot reproduce.
  """
  if config.get("model_type") != "clip":
    raise UserError(
      f"config.json has model_type {config.get('model_type')!r}; expected"
      " 'clip' with both towers, which SigLIP, BLIP or a vision tower alone is"
      " not; give the folder of a CLIP model, such as"
      " openai/clip-vit-large-patch14"
    )
  text = {**_TEXT, **_section(config, "text")}
  vision = {**_VISION, **_section(config, "vision")}
  problems = []
  for name, section in (("text", text), ("vision", vision)):
    heads, width = section["num_attention_heads"], section["hidden_size"]
    if width % heads:
      problems.append(
        f"{name}_config: hidden_size {width} is not a multiple of"
        f" num_attention_heads {heads}"
      )
    if section["hidden_act"] not in ACTIVATIONS:
      problems.append(
        f"{name}_config: hidden_act is {section['hidden_act']!r}; expected"
        f" one of {', '.join(ACTIVATIONS)}"
      )
  for key in ("image_size", "patch_size"):
    if not isinstance(vision[key], int):
      problems.append(
        f"vision_config: {key} is {vision[key]!r}; expected one integer"
      )
  if vision["num_channels"] != 3:
    problems.append(
      f"vision_config: num_channels is {vision['num_channels']}; expected 3"
    )
  if not isinstance(text["eos_token_id"], int):
    problems.append(
      f"text_config: eos_token_id is {text['eos_token_id']!r}; expected one"
      " integer"
    )
  pixels, more = _preprocessing(preprocessor or {}, vision["image_size"])
  problems += more
  if problems:
    raise UserError(listed("unsupported CLIP config:", problems))
  return Clip(
    vision=Tower(**{ours: vision[hf] for hf, ours in _TOWER.items()}),
    text=Tower(**{ours: text[hf] for hf, ours in _TOWER.items()}),
    projection_dim=config.get("projection_dim", 512),
    image_size=vision["image_size"],
    patch_size=vision["patch_size"],
    vocab_size=text["vocab_size"],
    max_position_embeddings=text["max_position_embeddings"],
    eos_token_id=text["eos_token_id"],
    logit_scale_init_value=config.get("logit_scale_init_value", 2.6592),
    **pixels,
    **overrides,
  )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  # In old configs `<name>_config_dict`, where given, takes precedence.
  old = config.get(f"{name}_config_dict")
  return (config.get(f"{name}_config") or {}) if old is None else old


def _preprocessing(
  config: Mapping[str, Any], image_size: int
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `Clip`, and what `Clip.preprocess` does not do."""
  problems = []
  for key in (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
  ):
    if not config.get(key, True):
      problems.append(f"preprocessor: {key} is false; expected true")
  if config.get("resample", 3) != 3:
    problems.append(
      f"preprocessor: resample is {config['resample']}; expected 3, bicubic"
    )
  factor = config.get("rescale_factor", 1 / 255)
  if abs(factor - 1 / 255) > 1e-9:
    problems.append(f"preprocessor: rescale_factor is {factor}; expected 1/255")
  for key in ("size", "crop_size"):
    value = config.get(key, image_size)
    sides = set(value.values()) if isinstance(value, Mapping) else {value}
    if sides != {image_size}:
      problems.append(
        f"preprocessor: {key} is {value}; expected the model's image_size"
        f" {image_size}"
      )
  fields = {
    key: tuple(config[key])
    for key in ("image_mean", "image_std")
    if key in config
  }
  return fields, problems


def config_to_hf(clip: Clip) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns config.json and preprocessor_config.json of a model."""
  size = clip.image_size
  text, vision = (
    {hf: getattr(tower, ours) for hf, ours in _TOWER.items()}
    for tower in (clip.text, clip.vision)
  )
  config = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": clip.projection_dim,
    "logit_scale_init_value": clip.logit_scale_init_value,
    "text_config": {
      "model_type": "clip_text_model",
      **text,
      "projection_dim": clip.projection_dim,
      "vocab_size": clip.vocab_size,
      "max_position_embeddings": clip.max_position_embeddings,
      "eos_token_id": clip.eos_token_id,
    },
    "vision_config": {
      "model_type": "clip_vision_model",
      **vision,
      "projection_dim": clip.projection_dim,
      "num_channels": 3,
      "image_size": size,
      "patch_size": clip.patch_size,
    },
  }
  preprocessor = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": size},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": size, "width": size},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(clip.image_mean),
    "image_std": list(clip.image_std),
  }
  return config, preprocessor


def rules(clip: Clip) -> tuple[Rule, ...]:
  """Returns the table of `CLIPModel`; it is the same for every size."""
  del clip
  patch = "vision_model.embeddings.patch_embedding"
  return (
    *embedding(
      "text_model.embeddings.token_embedding", "text_model/token_embedding"
    ),
    *_tower("text_model"),
    *norm("text_model.final_layer_norm", "text_model/final_layer_norm"),
    Rule(
      "vision_model.embeddings.class_embedding",
      "vision_model/class_embedding",
      "same",
    ),
    *conv(patch, "vision_model/patch_embedding", bias=False),
    *norm("vision_model.pre_layrnorm", "vision_model/pre_layrnorm"),
    *_tower("vision_model"),
    *norm("vision_model.post_layernorm", "vision_model/post_layernorm"),
    *linear("text_projection", "text_projection", bias=False),
    *linear("visual_projection", "visual_projection", bias=False),
    Rule("logit_scale", "logit_scale", "same"),
  )


def _tower(name: str) -> list[Rule]:
  hf, ours = f"{name}.encoder.layers.{{l}}", f"{name}/layers"
  table = [
    *embedding(
      f"{name}.embeddings.position_embedding", f"{name}/position_embedding"
    )
  ]
  for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
    table += linear(f"{hf}.self_attn.{part}", f"{ours}/self_attn/{part}")
  for part in ("fc1", "fc2"):
    table += linear(f"{hf}.mlp.{part}", f"{ours}/mlp/{part}")
  for part in ("layer_norm1", "layer_norm2"):
    table += norm(f"{hf}.{part}", f"{ours}/{part}")
  return table
