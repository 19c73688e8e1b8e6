"""Forms of checkpoints that are not a whole model in HF format."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import UserError

_GIVE = "give the folder of a model in HF format"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.msgpack")
# What each method of quantization leaves of a tensor.
_QUANTIZED = (".absmax", ".qweight", ".weight_scale", ".weight_scale_inv")


def check(folder: Path) -> None:
  """Refuses a folder whose form is known and is not that of HF's models.

  Raises:
    UserError: says which form it is and how it becomes a model in HF format.
  """
  problem = _problem(folder)
  if problem:
    raise UserError(f"{folder} {problem}")


def _problem(folder: Path) -> str:
  """Returns what a folder is instead of a model in HF format, or ''."""

  # Patterns of names, not contents: none of these files need be readable.
  def has(*patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)

  config = _json(folder / "config.json")
  if has("adapter_config.json", "adapter_model.*"):
    base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    return (
      f"is a PEFT adapter of {base or 'some model'}, not a model: load both"
      " with peft, `merge_and_unload()`, `save_pretrained` the result, and give"
      " that folder"
    )
  # The second is what compressed-tensors writes.
  quantized = config.get("quantization_config") or config.get(
    "compression_config"
  )
  if isinstance(quantized, Mapping):
    return _quantized(str(quantized.get("quant_method") or "some method"))
  # Some folders hold the same model in several forms; HF's will do.
  hf_weights = has("model*.safetensors", "model.safetensors.index.json")
  if has("open_clip_config.json", "open_clip_*") and not hf_weights:
    return (
      "is a CLIP in OpenCLIP's form, not in HF format: take the transformers"
      " form of the same model, or convert it with transformers'"
      " models/clip/convert_clip_original_pytorch_to_hf.py"
    )
  if has("model_index.json"):
    return f"is a diffusers pipeline, not a model of transformers: {_GIVE}"
  if config.get("model_type") == "multi_modality":
    return (
      "is a Janus in DeepSeek's own form (model_type 'multi_modality'): take"
      " the one in HF format, such as deepseek-community/Janus-Pro-1B, or"
      " convert it with transformers' models/janus/"
      "convert_janus_weights_to_hf.py"
    )
  if config.get("model_type") == "Emu3":
    return (
      "is an Emu3 in BAAI's own form (model_type 'Emu3'): take the one in HF"
      " format, such as BAAI/Emu3-Gen-hf, which has the image tokenizer, too"
    )
  if has("*.gguf") and not hf_weights:
    return f"has GGUF files, which llama.cpp reads: {_GIVE}, unquantized"
  if has("snapshots/*/config.json"):
    (*_, inner) = sorted(folder.glob("snapshots/*/config.json"))
    return f"is a cache of the hub: give {inner.parent}"
  if has("params/_METADATA"):  # Orbax's
    return f"is one checkpoint of a workdir: give {folder.parent.parent}"
  # Else the folder is read, and errors name the file that lacks.
  if not config and not has("*.safetensors"):
    return _without_config(folder, has)
  return ""


def _without_config(folder: Path, has: Any) -> str:
  inner = [path.parent for path in sorted(folder.glob("*/config.json"))]
  if inner:
    return f"is no model, but {', '.join(map(str, inner[:3]))} may be one"
  if has("tokenizer*", "vocab*") and not has(*_WEIGHTS):
    return f"has a tokenizer and no model (no config.json, no weights): {_GIVE}"
  return ""


def quantized(names: Mapping[str, Any]) -> str:
  """Returns what is wrong with tensors of these names if quantized, or ''.

  For folders whose config.json does not say so.
  """
  found = [name for name in names if name.endswith(_QUANTIZED)]
  return f"{_quantized('some method')} (found {found[0]})" if found else ""


def _quantized(method: str) -> str:
  return (
    f"is quantized ({method}), and training needs the weights as they were"
    " before: give the model that it was made from, or `dequantize()` it with"
    " transformers and `save_pretrained` that"
  )


def _json(path: Path) -> Mapping[str, Any]:
  """Returns the object in a file, or {} where there is none to be read."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return value if isinstance(value, Mapping) else {}
