"""Folders that are not a model in HF format are named for what they are."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrec_jax.core.errors import UserError
from genrec_jax.hf import load, locate

SFT, CLIP = locate.ASSETS / "tiny_sft", locate.ASSETS / "tiny_clip"


def config(folder, **values):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def no_weights(folder):
  (folder / "model.safetensors").unlink()


def adapter(folder):
  no_weights(folder)
  (folder / "config.json").unlink()
  beside_a_model(folder)


def beside_a_model(folder):
  text = json.dumps({"base_model_name_or_path": "deepseek/x"})
  (folder / "adapter_config.json").write_text(text)


def quantized_by(method):
  return lambda folder: config(
    folder, quantization_config={"quant_method": method}
  )


def four_bits(folder):
  tensors = load_file(folder / "model.safetensors")
  name = next(name for name in tensors if "q_proj" in name)
  tensors[f"{name}.absmax"] = np.zeros(4, np.uint8)
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def open_clip(folder):
  (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")


def open_clip_alone(folder):
  open_clip(folder)
  (folder / "config.json").unlink()
  (folder / "open_clip_config.json").write_text("{}")


def diffusers(folder):
  no_weights(folder)
  (folder / "config.json").rename(folder / "model_index.json")


def gguf(folder):
  (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def tokenizer_only(folder):
  no_weights(folder)
  (folder / "config.json").unlink()


def cache(folder):
  inner = folder / "snapshots" / "abc"
  inner.mkdir(parents=True)
  (folder / "config.json").rename(inner / "config.json")


def checkpoint_folder(folder):
  (folder / "params").mkdir()
  (folder / "params" / "_METADATA").write_text("{}")


def parent(folder):
  no_weights(folder)
  (folder / "checkpoint-500").mkdir()
  (folder / "config.json").rename(folder / "checkpoint-500" / "config.json")


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (adapter, "is a PEFT adapter of deepseek/x, not a model: .*merge_and_"),
    (beside_a_model, "is a PEFT adapter of deepseek/x"),
    (quantized_by("bitsandbytes"), r"is quantized \(bitsandbytes\), .*before"),
    (quantized_by("gptq"), r"is quantized \(gptq\)"),
    (quantized_by("awq"), r"is quantized \(awq\)"),
    (quantized_by("fp8"), r"is quantized \(fp8\)"),
    (four_bits, r"is quantized \(some method\).*absmax"),
    (diffusers, "is a diffusers pipeline"),
    (gguf, "has GGUF files, which llama.cpp reads"),
    (tokenizer_only, "has a tokenizer and no model"),
    (cache, "is a cache of the hub: give .*/snapshots/abc"),
    (checkpoint_folder, "is one checkpoint of a workdir: give "),
    (parent, "is no model, but .*/checkpoint-500 may be one"),
    (
      lambda folder: config(folder, model_type="multi_modality"),
      "is a Janus in DeepSeek's own form .*deepseek-community/Janus-Pro-1B",
    ),
    (
      lambda folder: config(folder, model_type="Emu3"),
      "is an Emu3 in BAAI's own form .*BAAI/Emu3-Gen-hf",
    ),
  ],
)
def test_a_generator_in_another_form(tmp_path, damage, message):
  folder = tmp_path / "runs" / "model"
  shutil.copytree(SFT, folder)
  damage(folder)
  with pytest.raises(UserError, match=message) as error:
    load.open_generator(folder, dtype="float32")
  assert str(error.value).startswith(str(folder))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (open_clip, "is a CLIP in OpenCLIP's form, not in HF format"),
    (open_clip_alone, "is a CLIP in OpenCLIP's form, not in HF format"),
    (quantized_by("bitsandbytes"), r"is quantized \(bitsandbytes\)"),
    (
      lambda folder: config(folder, model_type="siglip"),
      "model_type 'siglip'; expected 'clip' with both towers, which SigLIP",
    ),
  ],
)
def test_a_clip_in_another_form(tmp_path, damage, message):
  shutil.copytree(CLIP, tmp_path / "clip")
  damage(tmp_path / "clip")
  with pytest.raises(UserError, match=message) as error:
    load.open_clip(tmp_path / "clip", dtype="float32")
  assert "\n" not in str(error.value)


def test_files_of_open_clip_do_not_hide_the_hf_format(tmp_path):
  shutil.copytree(CLIP, tmp_path / "clip")
  (tmp_path / "clip" / "open_clip_config.json").write_text("{}")
  (tmp_path / "clip" / "open_clip_pytorch_model.bin").write_bytes(b"x")
  assert load.open_clip(tmp_path / "clip", dtype="float32").shapes


def test_buffers_that_old_code_saved_are_passed_over(tmp_path):
  shutil.copytree(SFT, tmp_path / "model")
  file = tmp_path / "model" / "model.safetensors"
  tensors = load_file(file)
  layer = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"
  tensors[layer] = np.ones(16, np.float32)
  ids = np.arange(16, dtype=np.int64)[None]
  tensors["model.vision_model.embeddings.position_ids"] = ids
  save_file(tensors, file, {"format": "pt"})
  found = load.open_generator(tmp_path / "model", dtype="float32")
  whole = load.open_generator(SFT, dtype="float32")
  assert jax.tree.structure(found.shapes) == jax.tree.structure(whole.shapes)
  assert found.stored.keys() == whole.stored.keys()
