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
# The names that `JanusProcessor` reads off a tokenizer, and what Janus calls
# the tokens where a tokenizer does not name them.
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
  """Returns a checkpoint's special ids by field, and what is wrong with them.

  The order of precedence is that of `generate`: generation_config.json,
  config.json, tokenizer.
  """
  text = config.get("text_config") or {}
  extra = generation.get("generation_kwargs") or {}
  vocabulary, problems = tokenizer.get_vocab(), []
  ids: dict[str, Any] = {}
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
  named = tokenizer.bos_token_id
  if named is not None and ids["bos_id"] != named:
    problems.append(
      f"bos_token_id is {named} in the tokenizer and {ids['bos_id']} in"
      " config.json or generation_config.json; get the folder again"
    )
  if not isinstance(ids["end_ids"], list):
    ids["end_ids"] = [ids["end_ids"]]
  ids["end_ids"] = tuple(ids["end_ids"])
  told = {
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
    elif told.get(field, ids[field]) not in (None, ids[field]):
      problems.append(
        f"{token!r} is {ids[field]} in the tokenizer and {told[field]} in"
        " config.json or generation_config.json; get the folder again"
      )
  return ids, problems


def _first(*values: Any) -> Any:
  return next((value for value in values if value is not None), None)


def image_problems(settings: Mapping[str, Any], size: Any) -> list[str]:
  """Says what `Processor.pixels` and the model's own scaling do not do."""
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
