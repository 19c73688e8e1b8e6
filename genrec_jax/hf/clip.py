"""CLIP, as `CLIPModel` of transformers: config, preprocessor, rule table."""

from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf import defaults, image_processor, towers
from genrec_jax.hf.rules import Rule, conv, embedding, linear, norm
from genrec_jax.models.clip import Clip, Tower

IGNORED: Sequence[str] = (towers.POSITION_IDS,)


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
  whole, problems = defaults.fill(transformers.CLIPConfig, config)
  # A section is absent only where transformers refuses the config.
  text, vision = (
    whole.get(name) or {} for name in ("text_config", "vision_config")
  )
  problems += defaults.mismatches("vision_config", vision, {"num_channels": 3})
  problems += towers.problems("text_config", text, ("eos_token_id",))
  problems += towers.problems(
    "vision_config", vision, ("image_size", "patch_size")
  )
  pixels, refused = _preprocessing(
    preprocessor or {}, vision.get("image_size", 224)
  )
  problems += refused
  if problems:
    raise UserError(listed("unsupported CLIP config:", problems))
  # All keys are there: `fill` found nothing wrong.
  return Clip(
    vision=Tower(**towers.fields(vision)),
    text=Tower(**towers.fields(text)),
    projection_dim=whole["projection_dim"],
    image_size=vision["image_size"],
    patch_size=vision["patch_size"],
    vocab_size=text["vocab_size"],
    max_position_embeddings=text["max_position_embeddings"],
    eos_token_id=text["eos_token_id"],
    logit_scale_init_value=whole["logit_scale_init_value"],
    **pixels,
    **overrides,
  )


def _preprocessing(
  config: Mapping[str, Any], image_size: int
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `Clip`, and what `Clip.preprocessing` does not do."""
  problems = []
  # Steps that the graph always takes.
  for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
    if not config.get(key, True):
      problems.append(f"preprocessor: {key} is false; expected true")
  if config.get("resample", 3) != 3:  # Pillow's number of the filter
    problems.append(
      f"preprocessor: resample is {config['resample']}; expected 3, bicubic"
    )
  # Files hold 1/255 rounded to different lengths.
  factor = config.get("rescale_factor", 1 / 255)
  if abs(factor - 1 / 255) > 1e-9:
    problems.append(f"preprocessor: rescale_factor is {factor}; expected 1/255")
  for key, whole in (
    # To a height and a width transformers would resize out of proportion.
    ("size", {"shortest_edge": image_size}),
    ("crop_size", {"height": image_size, "width": image_size}),
  ):
    value = config.get(key, image_size)  # a number in old files
    if value not in (image_size, whole):
      problems.append(
        f"preprocessor: {key} is {value}; expected the model's image_size"
        f" {image_size}, as {whole}"
      )
  # What is left out is OpenAI's, the default of `Clip`.
  fields = {
    key: tuple(config[key])
    for key in ("image_mean", "image_std")
    if key in config
  }
  return fields, problems


def config_to_hf(clip: Clip) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns config.json and preprocessor_config.json of a model."""
  text, vision = (
    {hf: getattr(tower, ours) for hf, ours in towers.FIELDS.items()}
    for tower in (clip.text, clip.vision)
  )
  config = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": clip.projection_dim,
    "logit_scale_init_value": clip.logit_scale_init_value,
    # Every size is written out: defaults are another model's.
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
      "image_size": clip.image_size,
      "patch_size": clip.patch_size,
    },
  }
  return config, image_processor.settings_of(clip.preprocessing, "CLIP")


def rules(clip: Clip) -> tuple[Rule, ...]:
  """Returns the table of `CLIPModel`; it is the same for every size."""
  del clip  # an argument as in the other tables
  patch = "vision_model.embeddings.patch_embedding"
  return (
    *embedding(
      "text_model.embeddings.token_embedding", "text_model/token_embedding"
    ),
    *towers.rules("text_model"),
    *norm("text_model.final_layer_norm", "text_model/final_layer_norm"),
    Rule(
      "vision_model.embeddings.class_embedding",
      "vision_model/class_embedding",
      "same",
    ),
    # A convolution there; `Clip` uses its kernel as a matrix.
    *conv(patch, "vision_model/patch_embedding", bias=False),
    # Spelt so in transformers.
    *norm("vision_model.pre_layrnorm", "vision_model/pre_layrnorm"),
    *towers.rules("vision_model"),
    *norm("vision_model.post_layernorm", "vision_model/post_layernorm"),
    *linear("text_projection", "text_projection", bias=False),
    *linear("visual_projection", "visual_projection", bias=False),
    Rule("logit_scale", "logit_scale", "same"),
  )
