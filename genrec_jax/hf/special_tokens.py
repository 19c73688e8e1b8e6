"""Special tokens of a checkpoint, where its files must say the same."""

from collections.abc import Mapping
from typing import Any

import transformers


def common_ids(
  tokenizer: transformers.PreTrainedTokenizerBase,
  config: Mapping[str, Any],
  generation: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
  """Returns bos_id, pad_id and end_ids, and what is wrong with them.

  The order of precedence is that of `generate`: generation_config.json,
  config.json, tokenizer.
  """
  text = config.get("text_config") or {}
  ids: dict[str, Any] = {}
  problems = []
  # None of these has a default: a wrong one would spoil every prompt silently.
  for field, name in {
    "bos_id": "bos_token_id",
    "pad_id": "pad_token_id",
    "end_ids": "eos_token_id",
  }.items():
    ids[field] = first(
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
  return ids, problems


def named_ids(
  tokenizer: transformers.PreTrainedTokenizerBase,
  tokens: Mapping[str, tuple[str, str]],
  configured: Mapping[str, Any],
  source: str,
) -> tuple[dict[str, Any], list[str]]:
  """Returns ids of tokens that only a family has, and what is wrong with them.

  Args:
    tokenizer: of the checkpoint.
    tokens: field -> (attribute of the tokenizer that names the token, the token
      where it lacks the attribute).
    configured: field -> id that a config gives it, or None.
    source: where to get another tokenizer, such as 'a Janus checkpoint'.
  """
  vocabulary, problems = tokenizer.get_vocab(), []
  ids: dict[str, Any] = {}
  for field, (name, usual) in tokens.items():
    token = getattr(tokenizer, name, None) or usual
    ids[field] = vocabulary.get(token)
    if ids[field] is None:
      problems.append(
        f"its tokenizer has no token {token!r}; take the tokenizer files of"
        f" {source}"
      )
    elif configured.get(field, ids[field]) not in (None, ids[field]):
      problems.append(
        f"{token!r} is {ids[field]} in the tokenizer and {configured[field]} in"
        " config.json or generation_config.json; get the folder again"
      )
  return ids, problems


def first(*values: Any) -> Any:
  """Returns the first value that is not None, if any is."""
  return next((value for value in values if value is not None), None)
