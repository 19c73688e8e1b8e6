"""Defaults of HF configs, which saved ones may leave out."""

from collections.abc import Mapping
import copy
from typing import Any

import transformers


def fill(
  kind: type[transformers.PretrainedConfig], config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
  """Fills in a config.json as transformers does; needs no torch.

  Sections left out, and keys of the versions before 5 such as `rope_theta`, are
  then what transformers makes of them.

  Args:
    kind: such as `transformers.JanusConfig`.
    config: config.json.

  Returns:
    The whole config and no problem; or `config` as it is and what transformers
    finds wrong with it.
  """
  try:
    # A copy: transformers writes into the sections that it is given.
    return kind.from_dict(copy.deepcopy(dict(config))).to_dict(), []
  except Exception as error:  # validators of many kinds
    # The cause has the reason alone, without the validator's name.
    return dict(config), [" ".join(str(error.__cause__ or error).split())]


def mismatches(
  section: str, values: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
  """Returns a line for each value that is there and is not the expected one."""
  # A key left out is no mismatch: `fill` could not fill it in, and says why.
  return [
    f"{section}: {key} is {values[key]!r}; expected {value!r}"
    for key, value in expected.items()
    if key in values and values[key] != value
  ]
