import json

import jax
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from genrec_jax.core.errors import UserError
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import rules, safetensors_io, write_model
from genrec_jax.models import clip
from tests.hf.tiny_janus import values

SMALL = clip.Clip(
  vision=clip.Tower(40, 72, 2, 5, "gelu", 1e-6),
  text=clip.Tower(48, 56, 3, 6),
  projection_dim=20,
  image_size=28,
  patch_size=7,
  vocab_size=61,
  max_position_embeddings=13,
  eos_token_id=57,
  image_mean=(0.5, 0.4, 0.3),
  image_std=(0.2, 0.3, 0.4),
)


def _params(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


def test_config_there_and_back():
  assert hf_clip.config_from_hf(*hf_clip.config_to_hf(SMALL)) == SMALL


def test_defaults_are_those_of_transformers():
  bare = {"model_type": "clip"}
  filled = CLIPConfig.from_dict(bare).to_dict()
  assert hf_clip.config_from_hf(bare) == hf_clip.config_from_hf(filled)


def test_openai_configs_are_the_presets():
  # As openai/clip-vit-large-patch14 has it: sections of two generations.
  config = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 999, "eos_token_id": 2},
    "text_config_dict": {
      "hidden_size": 768,
      "intermediate_size": 3072,
      "num_attention_heads": 12,
      "num_hidden_layers": 12,
      "projection_dim": 768,
      "eos_token_id": 2,
    },
    "vision_config": {
      "hidden_size": 1024,
      "intermediate_size": 4096,
      "num_attention_heads": 16,
      "num_hidden_layers": 24,
      "patch_size": 14,
    },
    "vision_config_dict": None,
  }
  preprocessor = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
  }
  found = hf_clip.config_from_hf(config, preprocessor, dtype="bfloat16")
  assert found == clip.vit_l_14(dtype="bfloat16")
  assert CLIPConfig.from_dict(config).text_config.hidden_size == 768


@pytest.mark.parametrize(
  ("preset", "sizes"),
  # As openai/clip-vit-base-patch32 and -large-patch14 have them.
  [
    (clip.vit_b_32, {"text_config": {"eos_token_id": 2}}),
    (
      clip.vit_l_14,
      {
        "projection_dim": 768,
        "text_config": {
          "hidden_size": 768,
          "intermediate_size": 3072,
          "num_attention_heads": 12,
          "eos_token_id": 2,
        },
        "vision_config": {
          "hidden_size": 1024,
          "intermediate_size": 4096,
          "num_hidden_layers": 24,
          "num_attention_heads": 16,
          "patch_size": 14,
        },
      },
    ),
  ],
)
def test_presets_are_the_published_models(preset, sizes):
  config = CLIPConfig(**sizes)
  ours = hf_clip.config_from_hf(config.to_dict())
  assert ours == preset()
  with torch.device("meta"):
    theirs = CLIPModel(config)
  tensors = {
    name: jax.ShapeDtypeStruct(tuple(tensor.shape), np.float32)
    for name, tensor in theirs.state_dict().items()
  }
  # Raises unless every tensor is matched, in name and shape, by exactly one
  # rule, and every rule matches a tensor.
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  rules.to_params(hf_clip.rules(ours), tensors, expected)


def test_transformers_loads_what_is_written(tmp_path):
  config, preprocessor = hf_clip.config_to_hf(SMALL)
  source = tmp_path / "source"
  source.mkdir()
  (source / "preprocessor_config.json").write_text(json.dumps(preprocessor))
  params = _params(SMALL)
  tensors = rules.to_hf(hf_clip.rules(SMALL), params)
  write_model.write(tmp_path / "m", config, tensors, source=source)
  theirs, info = CLIPModel.from_pretrained(
    tmp_path / "m", output_loading_info=True
  )
  assert not any(info.values()), info
  for name, value in theirs.state_dict().items():
    np.testing.assert_array_equal(tensors[name], value.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_save_pretrained_there_and_back_is_bit_identical(tmp_path, dtype):
  config, _ = hf_clip.config_to_hf(SMALL)
  theirs = CLIPModel(CLIPConfig.from_dict(config)).to(getattr(torch, dtype))
  theirs.save_pretrained(tmp_path / "a", max_shard_size="60KB")
  assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
  tensors = safetensors_io.open_tensors(tmp_path / "a")
  model = hf_clip.config_from_hf(safetensors_io.read_config(tmp_path / "a"))
  expected = jax.eval_shape(model.init, jax.random.key(0))
  params = values(rules.to_params(hf_clip.rules(model), tensors, expected))
  assert {v.dtype for v in jax.tree.leaves(params)} == {np.dtype("float32")}
  write_model.write(
    tmp_path / "b",
    safetensors_io.read_config(tmp_path / "a"),
    rules.to_hf(hf_clip.rules(model), params),
    dtype=dtype,
  )
  back = safetensors_io.open_tensors(tmp_path / "b")
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    assert back[name].dtype == value.dtype == np.dtype(dtype)
    assert np.asarray(back[name]).tobytes() == np.asarray(value).tobytes()


def test_buffers_of_old_checkpoints_are_ignored():
  tensors = rules.to_hf(hf_clip.rules(SMALL), _params(SMALL))
  tensors["text_model.embeddings.position_ids"] = np.arange(13)[None]
  tensors["vision_model.embeddings.position_ids"] = np.arange(17)[None]
  expected = jax.eval_shape(SMALL.init, jax.random.key(0))
  rules.to_params(hf_clip.rules(SMALL), tensors, expected, hf_clip.IGNORED)


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match="model_type 'janus'; expected 'clip'"):
    hf_clip.config_from_hf({"model_type": "janus"})


@pytest.mark.parametrize(
  ("key", "value", "good"),
  [
    ("size", 28, True),
    ("size", {"shortest_edge": 28}, True),
    ("size", {"height": 28, "width": 28}, False),  # it would be distorted
    ("crop_size", 28, True),
    ("crop_size", {"height": 28, "width": 28}, True),
    ("crop_size", {"height": 28, "width": 12}, False),
    ("crop_size", 12, False),
  ],
)
def test_sizes_are_the_model_s_in_transformers_form(key, value, good):
  config, preprocessor = hf_clip.config_to_hf(SMALL)
  preprocessor[key] = value
  if good:
    assert hf_clip.config_from_hf(config, preprocessor).image_size == 28
    return
  with pytest.raises(UserError, match=f"preprocessor: {key} is"):
    hf_clip.config_from_hf(config, preprocessor)


def test_all_that_is_unsupported_in_one_message():
  config = {
    "model_type": "clip",
    "text_config": {
      "hidden_size": 50,
      "hidden_act": "relu",
      "eos_token_id": [1, 2],
    },
    "vision_config": {"num_channels": 1, "patch_size": [8, 8]},
  }
  preprocessor = {
    "do_center_crop": False,
    "resample": 2,
    "size": {"shortest_edge": 256},
  }
  with pytest.raises(UserError) as error:
    hf_clip.config_from_hf(config, preprocessor)
  for fault in (
    "The hidden size (50) is not a multiple of the number of attention heads",
    "hidden_act is 'relu'",
    "eos_token_id is [1, 2]",
    "num_channels is 1",
    "patch_size is [8, 8]",
    "do_center_crop is false",
    "resample is 2",
    "size is {'shortest_edge': 256}",
  ):
    assert fault in str(error.value)
