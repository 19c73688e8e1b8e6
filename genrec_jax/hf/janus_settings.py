"""Special tokens and image settings of a Janus checkpoint, checked."""

from collections.abc import Mapping
from typing import Any

import transformers

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
  """Returns special ids by field of `JanusProcessor`, and their problems.

  The order of precedence is that of `generate`: generation_config.json,
  config.json, tokenizer.
  """
  text = config.get("text_config") or {}
  extra = generation.get("generation_kwargs") or {}
  vocabulary, problems = tokenizer.get_vocab(), []
  ids: dict[str, Any] = {}
  # None of these has a default: a wrong one would spoil every prompt silently.
  for field, name in {
    "bos_id": "bos_token_id",
    "pad_id": "pad_token_id",
    "end_ids": "eos_token_id",
  }.items():
    ids[field] = _first(
      generation.get(name),
      config.get(name),
      text.get(name),
      getattr(tokenizer, name),
    )
    if ids[field] is None:
      problems.append(
        f"no {name}: neither generation_config.json, config.json nor the"
        " tokenizer has it"
      )
  # A tokenizer need not name BOS, but must not contradict the others.
  named = tokenizer.bos_token_id
  if named is not None and ids["bos_id"] != named:
    problems.append(
      f"bos_token_id is {named} in the tokenizer and {ids['bos_id']} in"
      " config.json or generation_config.json; get the folder again"
    )
  # One id or several.
  if not isinstance(ids["end_ids"], list):
    ids["end_ids"] = [ids["end_ids"]]
  ids["end_ids"] = tuple(ids["end_ids"])
  # The first stands in generation_kwargs or next to it.
  configured = {
    "boi_id": _first(extra.get("boi_token_id"), generation.get("boi_token_id")),
    "image_id": config.get("image_token_id"),
  }
  for field, (name, usual) in _TOKENS.items():
    token = getattr(tokenizer, name, None) or usual
    ids[field] = vocabulary.get(token)
    if ids[field] is None:
      problems.append(
        f"its tokenizer has no token {token!r}; take the tokenizer files of a"
        " Janus checkpoint"
      )
    elif configured.get(field, ids[field]) not in (None, ids[field]):
      problems.append(
        f"{token!r} is {ids[field]} in the tokenizer and {configured[field]} in"
        " config.json or generation_config.json; get the folder again"
      )
  return ids, problems


def _first(*values: Any) -> Any:
  return next((value for value in values if value is not None), None)


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
