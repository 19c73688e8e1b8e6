"""Special tokens and image settings of a Janus checkpoint, checked."""

from collections.abc import Mapping
from typing import Any

import transformers

from genrec_jax.hf import special_tokens

# Fields of `JanusImageProcessor`, transformers 5.23.
IMAGES = {
  "do_resize": True,
  "do_rescale": True,
  "do_normalize": True,
  "do_pad": True,
  "resample": 3,
  "min_size": 14,
  "rescale_factor": 1 / 255,
  "size": {"height": 384, "width": 384},
}
# Attributes of tokenizers that `JanusProcessor` of transformers reads, and the
# tokens of Janus where a tokenizer lacks the attribute.
_TOKENS = {
  "boi_id": ("boi_token", "<begin_of_image>"),
  "eoi_id": ("eoi_token", "<end_of_image>"),
  "image_id": ("image_token", "<image_placeholder>"),
}


def special_ids(
  tokenizer: transformers.PreTrainedTokenizerBase,
  config: Mapping[str, Any],
  generation: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
  """Returns special ids by field of `JanusProcessor`, and their problems."""
  extra = generation.get("generation_kwargs") or {}
  # The first stands in generation_kwargs or next to it.
  configured = {
    "boi_id": special_tokens.first(
      extra.get("boi_token_id"), generation.get("boi_token_id")
    ),
    "image_id": config.get("image_token_id"),
  }
  ids, problems = special_tokens.common_ids(tokenizer, config, generation)
  named, more = special_tokens.named_ids(
    tokenizer, _TOKENS, configured, "a Janus checkpoint"
  )
  return ids | named, problems + more


def image_problems(settings: Mapping[str, Any], size: Any) -> list[str]:
  """Returns what `JanusProcessor.pixels` and the model's scaling do not do."""
  # Any smallest side will do: it is a field of the processor.
  expected = {name: IMAGES[name] for name in IMAGES if name != "min_size"}
  expected |= {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"height": size, "width": size},
  }
  return [
    f"image processor: {name} is {settings.get(name)}; expected {value}"
    for name, value in expected.items()
    if settings.get(name) != value
  ]
