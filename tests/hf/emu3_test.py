"""Emu3's files: names old and new, config, vocabulary, and back again."""

import dataclasses
import json

import jax
import numpy as np
from PIL import Image
import pytest
import torch
import transformers

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import emu3 as hf_emu3
from genrec_jax.hf import (
  emu3_vocabulary,
  families,
  load,
  movqgan,
  rules,
  safetensors_io,
  write_model,
)
from genrec_jax.hf.export import export_checkpoint, export_generator
from genrec_jax.models import emu3_preset
from tests.hf import tiny_emu3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder as `save_pretrained` writes it, with the old names."""
  return tiny_emu3.save(tmp_path_factory.mktemp("emu3") / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_import_then_export_is_bit_identical(tied):
  theirs = tiny_emu3.torch_model(tied=tied)
  ours, params, _ = tiny_emu3.ours_of(theirs)
  tensors = rules.to_hf(hf_emu3.rules(ours), params)
  original = {
    name: value
    for name, value in tiny_emu3.tensors_of(theirs).items()
    if not name.endswith("num_batches_tracked")
  }
  assert tensors.keys() == original.keys()
  for name, value in original.items():
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_both_schemes_of_names_are_read(folder, tmp_path):
  old = safetensors_io.open_tensors(folder)
  assert "text_model.model.embed_tokens.weight" in old
  assert "vqmodel.quantize.embedding.weight" in old
  new = {k: v.numpy() for k, v in tiny_emu3.pair()[0].state_dict().items()}
  config = safetensors_io.read_config(folder)
  write_model.write(tmp_path / "new", config, new, source=folder)
  one, two = (
    load.load_generator(path, dtype="float32")
    for path in (folder, tmp_path / "new")
  )
  assert one.model == two.model == tiny_emu3.pair()[1]
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  jax.tree.map(np.testing.assert_array_equal, one.params, tiny_emu3.pair()[2])


@pytest.mark.parametrize("how", ["checkpoint", "params"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_loaded_whole_by_transformers(
  folder, tmp_path, how, dtype
):
  out = tmp_path / "out"
  opened = tiny_emu3.opened(folder)
  if how == "checkpoint":
    export_checkpoint(out, opened, dtype)
  else:
    export_generator(out, opened.model, opened.read(), folder, dtype)
  model, report = transformers.Emu3ForConditionalGeneration.from_pretrained(
    out, output_loading_info=True
  )
  assert not any(report.values()), report
  theirs = tiny_emu3.pair()[0].state_dict()
  for name, value in model.state_dict().items():
    assert torch.equal(value, theirs[name].to(value.dtype)), name
  assert model.dtype == getattr(torch, dtype)
  processor = transformers.Emu3Processor.from_pretrained(out)
  assert processor.tokenizer.get_vocab() == tiny_emu3.tokenizer().get_vocab()
  again = tiny_emu3.opened(out)
  assert again.model == opened.model  # its sizes too
  assert len(again.carried) == 4  # of two norms, in two blocks


def test_the_vocabulary_map_is_in_no_workdir_s_config(folder):
  """Of 6.5 MB in real checkpoints; what a run keeps is its own config."""
  assert "vocabulary_map" in safetensors_io.read_config(folder)
  model = tiny_emu3.opened(folder).model
  assert len(repr(model)) < 2000


def test_a_run_chooses_its_sizes(folder):
  opened = tiny_emu3.opened(folder, image_size=24, read_size=8)
  assert opened.model.image_tokens == 9
  assert opened.model.prompt_tokens == 2
  assert opened.processor.image_begin == opened.model.image_begin
  assert opened.processor.crop(_image()).shape == (24, 24, 3)
  assert opened.processor.pixels(_image()).shape == (8, 8, 3)
  with pytest.raises(UserError, match=r"read_size is 12: expected a multiple"):
    tiny_emu3.opened(folder, read_size=12)


def test_sizes_that_a_model_does_not_have_are_refused():
  with pytest.raises(UserError) as error:
    load.open_generator(
      "tiny_sft", dtype="float32", image_size=64, read_size=32
    )
  assert "model.image_size=64: expected 32, the only one, or 0" in str(
    error.value
  )
  assert "read_size" not in str(error.value)


def _image():
  return Image.new("RGB", (40, 31), "red")


def test_presets_are_the_published_models():
  config = transformers.Emu3Config()
  vq = json.loads(config.vq_config.to_json_string(use_diff=False))
  ours = emu3_preset.emu3()
  assert movqgan.config_from_hf(vq) == ours.tokenizer
  text = json.loads(config.text_config.to_json_string(use_diff=False))
  assert hf_emu3.llama.from_config(text, tied=False) == ours.language
  assert hf_emu3.llama.problems("text_config", text) == []
  with torch.device("meta"):
    theirs = transformers.Emu3ForConditionalGeneration(
      transformers.Emu3Config(vocabulary_map=tiny_emu3.tokenizer().get_vocab())
    )
  tensors = {
    name: jax.ShapeDtypeStruct(tuple(tensor.shape), np.float32)
    for name, tensor in theirs.state_dict().items()
    if not name.endswith("num_batches_tracked")
  }
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  stored = rules.to_params(hf_emu3.rules(ours), tensors, expected)
  names = [name for s in tree.flatten(stored).values() for name in s.names]
  assert sorted(names) == sorted(tensors)
  family, preset = families.presets()["emu3"]
  assert family is hf_emu3
  assert preset(image_size=512, read_size=64).image_tokens == 4096
  assert ours.image_begin == (151852, 18, 17, 9, 18, 17, 151851)  # 32*32


def changed(folder, tmp_path, **changes):
  """Returns a copy of a folder with another config.json."""
  copy = tmp_path / "copy"
  copy.mkdir()
  for path in folder.iterdir():
    (copy / path.name).symlink_to(path)
  (copy / "config.json").unlink()
  config = safetensors_io.read_config(folder)
  for name, value in changes.items():
    if isinstance(value, dict) and name != "vocabulary_map":
      value = config[name] | value
    config[name] = value
  (copy / "config.json").write_text(json.dumps(config))
  return copy


def _without(name):
  vocabulary = tiny_emu3.tokenizer().get_vocab()
  return {k: v for k, v in vocabulary.items() if k != name}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"vocabulary_map": _without("<|visual token 000003|>")},
      r"no '<\|visual token 000003\|>' and 0 more of the 37 codes",
    ),
    ({"vocabulary_map": None}, r"vocabulary_map has no '<\|extra_200\|>'"),
    (
      {
        "vocabulary_map": tiny_emu3.tokenizer().get_vocab()
        | {"<|visual token 000000|>": 9}
      },
      r"'<\|visual token 000000\|>' is 8 in the tokenizer and 9 in",
    ),
    (
      {"vq_config": {"codebook_size": 36}},
      "vocabulary_map has tokens of 37 codes; vq_config has 36",
    ),
    ({"vq_config": {"double_latent": True}}, "double_latent is True"),
    ({"vq_config": {"attn_resolutions": [2]}}, r"attn_resolutions is \(2,\)"),
    (
      {"vq_config": {"temporal_downsample_factor": 3}},
      "temporal_downsample_factor is 3; expected a power of 2",
    ),
    ({"text_config": {"hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
    (
      {"text_config": {"vocab_size": 20}},
      "vocabulary_map has token 329; the language model has 20",
    ),
  ],
)
def test_what_cannot_be_reproduced_is_refused(
  folder, tmp_path, changes, message
):
  with pytest.raises(UserError, match=message):
    tiny_emu3.opened(changed(folder, tmp_path, **changes))


def test_two_codes_of_one_token_are_refused():
  vocabulary = {"<|visual token 000000|>": 4, "<|visual token 000001|>": 4}
  _, problems = emu3_vocabulary.code_ids(vocabulary, 2)
  assert problems == ["vocabulary_map gives one token to several codes"]


def test_a_token_that_ends_texts_is_never_silenced():
  """Some tokenizers pad with what ends a text."""
  theirs, ours, _, processor = tiny_emu3.pair()
  assert processor.pad_id in ours.silent_ids
  config = json.loads(theirs.config.to_json_string(use_diff=False))
  ends = dataclasses.replace(processor, end_ids=(processor.pad_id,))
  model = hf_emu3.model_from_hf(config, ends, {})
  assert set(ours.silent_ids) - set(model.silent_ids) == {processor.pad_id}


def test_a_tensor_that_lacks_is_named(folder, tmp_path):
  tensors = dict(safetensors_io.open_tensors(folder))
  del tensors["vqmodel.quantize.embedding.weight"]
  config = safetensors_io.read_config(folder)
  write_model.write(tmp_path / "m", config, tensors, source=folder)
  with pytest.raises(UserError, match=r"vqmodel.quantize.*: missing"):
    tiny_emu3.opened(tmp_path / "m")
