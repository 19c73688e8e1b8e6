"""Settings of processors, read in transformers' order of precedence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf import safetensors_io

PROCESSOR = "processor_config.json"
PREPROCESSOR = "preprocessor_config.json"


def read_optional(path: Path) -> Mapping[str, Any]:
  """Returns the JSON object in a file; {} if there is no such file."""
  return safetensors_io.read_json(path) if path.exists() else {}


def image_settings(folder: Path) -> Mapping[str, Any]:
  """Returns the settings of the image processor; {} if the folder has none.

  As `ImageProcessingMixin.get_image_processor_dict` of transformers 5: what
  processor_config.json has nested, which transformers 5 writes, else all of
  preprocessor_config.json. The two are not merged.
  """
  nested = read_optional(folder / PROCESSOR).get("image_processor")
  if nested is not None:  # also if it is empty
    return nested
  return read_optional(folder / PREPROCESSOR)


def chat_template(folder: Path, of_tokenizer: Any) -> str | None:
  """Returns the chat template of a processor; None if there is none.

  As `ProcessorMixin.get_processor_dict` of transformers 5: that of
  processor_config.json, else of chat_template.json, else chat_template.jinja
  and additional_chat_templates/*.jinja, else the tokenizer's. Of several with
  names the one named 'default' counts.

  Args:
    folder: in HF format.
    of_tokenizer: the tokenizer's own: a template, {name: template}, or None.

  Raises:
    UserError: chat_template.json and additional_chat_templates/ are both there.
  """
  # The first is the older form.
  legacy, jinja = folder / "chat_template.json", folder / "chat_template.jinja"
  named = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((folder / safetensors_io.CHAT_TEMPLATES).glob("*.jinja"))
  }
  if legacy.exists() and named:
    raise UserError(
      f"{folder} has both chat_template.json and"
      f" {safetensors_io.CHAT_TEMPLATES}/, of which transformers reads neither:"
      " remove one of them"
    )
  if jinja.exists():
    named["default"] = jinja.read_text(encoding="utf-8")
  found = next(  # the first that is there
    (
      template
      for template in (
        read_optional(folder / PROCESSOR).get("chat_template"),
        read_optional(legacy).get("chat_template"),
        named or None,
        of_tokenizer,
      )
      if template is not None
    ),
    None,
  )
  if isinstance(found, list):  # several with names, as files have them
    found = {entry["name"]: entry["template"] for entry in found}
  if not isinstance(found, Mapping):
    return found
  if "default" in found:
    return found["default"]
  # Only questions need one: it fails where it is used.
  names = ", ".join(sorted(found))
  return (
    "{{ raise_exception('none of its templates is default: " + names + "')}}"
  )
