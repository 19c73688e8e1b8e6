"""Checkpoint of a model: found, compared with its config, and loaded."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import torch
import transformers

from . import emu3_prompts

# Chat template of published Janus checkpoints, for those that bring none.
CHAT = """<|User|>: {% for part in messages[0]['content'] -%}
{%- if part['type'] == 'image' -%}
{{ ('' if loop.first else '\\n') + '<image_placeholder>\\n' }}
{%- else -%}
{%- set text = part['text'].lstrip() if loop.first else part['text'] -%}
{{ text.rstrip() if loop.last else text }}
{%- endif -%}
{%- endfor -%}
{{ '\\n\\n<|Assistant|>:' }}"""


def load(
  name: str | os.PathLike[str], dtype: str = "float32", device: str = "cpu"
) -> tuple[transformers.PreTrainedModel, Any]:
  """Loads a model and its processor: of transformers, or `emu3_prompts`'s.

  Args:
    name: a folder in HF format, or a name on the hub.
    dtype: 'float32' or 'bfloat16', of everything but the image decoder.
    device: such as 'cpu' or 'cuda'.

  Raises:
    ValueError: what it is not, or all that does not fit in its files.
  """
  folder = local_folder(name)
  config = transformers.AutoConfig.from_pretrained(folder)
  if config.model_type == "emu3":
    return load_emu3(folder, config, dtype, device)
  if config.model_type != "janus":
    raise ValueError(
      f"config.json has model_type {config.model_type!r}; expected 'janus' or"
      " 'emu3'"
    )
  check_tensors(folder, config, "JanusForConditionalGeneration")
  with reading_processor("Janus"):
    # By Pillow, as in training: torchvision resamples a little differently.
    processor = transformers.AutoProcessor.from_pretrained(
      folder, backend="pil"
    )
    ids = special_ids(folder, config, processor)
  model = transformers.JanusForConditionalGeneration.from_pretrained(
    folder, dtype=dtype, use_safetensors=True
  )
  model.model.vqmodel.float()  # small, and its rounding would be seen
  for key, value in ids.items():
    setattr(model.generation_config, key, value)
  tokenizer = processor.tokenizer
  if tokenizer.bos_token is None:  # which `prompts` writes
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(ids["bos_token_id"])
  processor.chat_template = first(
    processor.chat_template, tokenizer.chat_template, CHAT
  )
  processor.num_image_tokens = codes_per_image(model)
  return model.eval().to(device), processor


def load_emu3(
  folder: Path, config: Any, dtype: str, device: str
) -> tuple[transformers.PreTrainedModel, emu3_prompts.Processor]:
  """Loads an Emu3 and its processor; see `load`."""
  check_tensors(folder, config, emu3_prompts.MODEL, emu3_prompts.RENAMED)
  with reading_processor("Emu3"):
    processor = emu3_prompts.load_processor(folder, config)
  model = transformers.Emu3ForConditionalGeneration.from_pretrained(
    folder, dtype=dtype, use_safetensors=True
  )
  model.model.vqmodel.float()  # its codes are those of float32
  return model.eval().to(device), processor


@contextlib.contextmanager
def reading_processor(family: str) -> Iterator[None]:
  """Raises what fails as a ValueError that names the files to look at."""
  try:
    yield
  except Exception as error:  # these files can be wrong in very many ways
    raise ValueError(
      f"tokenizer*.json or preprocessor_config.json: {error}; take these files"
      f" of the same {family} checkpoint"
    ) from None


def local_folder(name: str | os.PathLike[str]) -> Path:
  """Returns the folder of a model: `name` itself, or what the hub has by it."""
  if Path(name).is_dir():
    return Path(name)
  kinds = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
  return Path(
    huggingface_hub.snapshot_download(str(name), allow_patterns=kinds)
  )


def special_ids(folder: Path, config: Any, processor: Any) -> dict[str, Any]:
  """Returns a checkpoint's special ids as settings of `generate`.

  They come from generation_config.json, else config.json, else the tokenizer,
  wherever they stand in a prompt: so the package reads them, and transformers
  does for some of them only.

  Raises:
    ValueError: one is nowhere, or these files differ about it.
  """
  generation, written = (
    json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    for name in ("generation_config.json", "config.json")
  )
  tokenizer, ids = processor.tokenizer, {}
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    ids[name] = first(
      generation.get(name),
      written.get(name),
      # Not `config`, which fills in what is not written with other models' ids.
      (written.get("text_config") or {}).get(name),
      getattr(tokenizer, name),
    )
    if ids[name] is None:
      raise ValueError(f"no {name}")
  begin = tokenizer.convert_tokens_to_ids(processor.image_start_token)
  ids["generation_kwargs"] = {"boi_token_id": begin}
  extra = generation.get("generation_kwargs") or {}
  begin_there = first(
    extra.get("boi_token_id"), generation.get("boi_token_id"), begin
  )
  image_id = tokenizer.convert_tokens_to_ids(processor.image_token)
  if tokenizer.bos_token_id not in (None, ids["bos_token_id"]):
    raise ValueError(
      f"bos_token_id is {tokenizer.bos_token_id} in the tokenizer and"
      f" {ids['bos_token_id']} in config.json or generation_config.json"
    )
  for token, here, there, file in (
    # Else `sample_codes` would leave images out, or `generate` their begin.
    (processor.image_token, image_id, config.image_token_id, "config.json"),
    (processor.image_start_token, begin, begin_there, "generation_config.json"),
  ):
    if here != there:
      raise ValueError(f"{token} is {here}, in {file} {there}")
  return ids


def first(*values: Any) -> Any:
  """Returns the first value that is not None, or None."""
  return next((value for value in values if value is not None), None)


def check_tensors(
  folder: Path,
  config: Any,
  kind: str,
  renamed: Sequence[tuple[str, str]] = (),
) -> None:
  """Compares a folder's safetensors, by their headers, with its config.json.

  transformers would only warn, and leave random what is missing.

  Args:
    folder: in HF format.
    config: its config.
    kind: class of the model.
    renamed: how names in files begin -> how the modules' do.

  Raises:
    ValueError: lists all that differs.
  """
  with torch.device("meta"):  # names and shapes, no memory
    model = getattr(transformers, kind)(config)
  fits = {
    name: f"{'float' if v.is_floating_point() else 'I64'} {list(v.shape)}"
    for name, v in model.state_dict().items()
  }

  def newest(name: str) -> str:
    for old, new in renamed:
      name = new + name.removeprefix(old) if name.startswith(old) else name
    return name

  optional = model.all_tied_weights_keys
  single, index = "model.safetensors", "model.safetensors.index.json"
  sharded = (folder / index).exists()
  places = dict.fromkeys(fits.keys() - optional, index if sharded else single)
  if sharded:
    try:
      written = json.loads((folder / index).read_text())["weight_map"]
      places |= {newest(name): file for name, file in written.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
      raise ValueError(f"{index} has no weight_map; get it again") from None
  expected = {
    (file, name): fits.get(name, "by the index alone")
    for name, file in places.items()
  }
  files = {*places.values()} - {index}
  if (folder / single).exists():
    files.add(single)  # transformers would take it, whatever the index says
  found, problems = {}, []
  for file in sorted(files):
    try:
      with safetensors.safe_open(folder / file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (it cannot be iterated)
          tensor = opened.get_slice(name)
          dtype = tensor.get_dtype()
          dtype = "float" if "F" in dtype else dtype
          found[file, newest(name)] = f"{dtype} {tensor.get_shape()}"
    except (OSError, safetensors.SafetensorError) as error:
      problems.append(f"{file} is missing or not whole ({error})")
      found |= {key: expected[key] for key in expected if key[0] == file}
  for file, name in sorted(expected.keys() | found.keys()):
    want = expected.get((file, name), "nothing")
    have = found.get((file, name), "absent")
    if want != have and name not in optional:
      problems.append(f"{file}: {name} is {have}, expected {want}")
  if problems:
    raise ValueError(
      f"{'; '.join(problems[:20])}; {len(problems)} in all; get the files"
      " again, as safetensors, with the config.json that belongs to them"
    )


def codes_per_image(model: Any) -> int:
  """Returns I: codes of a generated image, and placeholders of a read one."""
  vision = model.config.vision_config
  return (vision.image_size // vision.patch_size) ** 2
