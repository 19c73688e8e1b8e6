"""Model families: one module each, which brings all that loading asks for.

To add a family write a module like `hf.janus` and name it in `FAMILIES`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
import re
from typing import Any, Protocol

from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.hf import emu3, janus
from genrec_jax.hf.lazy_array import HFParam
from genrec_jax.hf.processor import Processor
from genrec_jax.hf.rules import Rule
from genrec_jax.models.api import Generator


class Family(Protocol):
  """Module of a family: from HF files to a `Generator`, and back."""

  # Layout of parameters on a mesh; every one matches exactly one rule.
  SHARDING: sharding.Rules
  # HF tensors that hold no parameter: regexes of whole names.
  IGNORED: Sequence[str]
  # Of those, what exports bring along as it is.
  CARRIED: Sequence[str]
  # Older names of HF tensors: (regex, what takes its place).
  RENAMED: Sequence[tuple[str, str]]
  # Published sizes by config variant: what runs of it without a checkpoint are.
  # Those of models with images of any size take image_size and read_size.
  PRESETS: Mapping[str, Callable[..., Generator]]

  def open_processor(
    self, folder: Path, config: Mapping[str, Any]
  ) -> Processor:
    """Reads tokenizer and image settings; raises UserError.

    Args:
      folder: in HF format.
      config: its config.json; with image_size and read_size where those of a
        run are other ones.
    """

  def model_from_hf(
    self,
    config: Mapping[str, Any],
    processor: Any,
    tensors: Mapping[str, Any],
  ) -> Generator:
    """Returns the model that a folder describes, computing in float32.

    Args:
      config: as for `open_processor`.
      processor: of `open_processor`.
      tensors: HF name -> tensor with a shape; none is read.

    Raises:
      UserError: the code cannot reproduce such a model; lists all reasons.
    """

  def rules(self, model: Any) -> tuple[Rule, ...]:
    """Returns the table of HF names and parameters of a model."""

  def config_for_export(
    self, config: Mapping[str, Any], model: Any
  ) -> dict[str, Any]:
    """Returns config.json of trained weights.

    Args:
      config: that of the weights which training began with.
      model: the trained model.
    """

  def warnings(self, stored: Mapping[str, HFParam]) -> list[str]:
    """Returns lines about a checkpoint that its user should know.

    Args:
      stored: path -> parameter; see `load.CheckpointHandle`.
    """


# model_type of config.json -> module.
FAMILIES: dict[str, Family] = {"janus": janus, "emu3": emu3}


def family_of(folder: Path, config: Mapping[str, Any]) -> Family:
  """Returns the family of a folder's config.json.

  Raises:
    UserError: no known one.
  """
  kind = config.get("model_type")
  # At once, not when a tensor is missing: the folder may be of any model.
  if kind not in FAMILIES:
    raise UserError(
      f"{folder}/config.json has model_type {kind!r}; expected"
      f" {' or '.join(map(repr, FAMILIES))}: give the folder of a generator in"
      " HF format, such as deepseek-community/Janus-Pro-1B"
    )
  return FAMILIES[kind]


def renamed(family: Family, tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Returns tensors by the names that the family's rules have."""
  names = {}
  for name, tensor in tensors.items():
    for pattern, newer in family.RENAMED:
      name = re.sub(pattern, newer, name)
    names[name] = tensor
  return names


def carried(family: Family, tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the tensors that an export brings along as they are."""
  return {
    name: tensor
    for name, tensor in tensors.items()
    if any(re.fullmatch(pattern, name) for pattern in family.CARRIED)
  }


def presets() -> dict[str, tuple[Family, Callable[..., Generator]]]:
  """Returns the published sizes of all families, by config variant."""
  return {
    variant: (family, preset)
    for family in FAMILIES.values()
    for variant, preset in family.PRESETS.items()
  }
