"""DINOv2 folders: as published, written by us, damaged."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from genrec_jax.core.errors import UserError
from genrec_jax.hf import dinov2, encoders, rules, write_model
from genrec_jax.models.dinov2 import Dinov2
from genrec_jax.models.pixels import Preprocessing
from genrec_jax.models.tower import Tower
from tests.hf import random_encoders

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# As facebook/dinov2-base has them, of transformers 4.31.
BASE = {
  "apply_layernorm": True,
  "architectures": ["Dinov2Model"],
  "attention_probs_dropout_prob": 0.0,
  "drop_path_rate": 0.0,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.0,
  "hidden_size": 768,
  "image_size": 518,
  "initializer_range": 0.02,
  "layer_norm_eps": 1e-06,
  "layerscale_value": 1.0,
  "mlp_ratio": 4,
  "model_type": "dinov2",
  "num_attention_heads": 12,
  "num_channels": 3,
  "num_hidden_layers": 12,
  "out_features": ["stage12"],
  "out_indices": [12],
  "patch_size": 14,
  "qkv_bias": True,
  "reshape_hidden_states": True,
  "stage_names": ["stem", *(f"stage{i}" for i in range(1, 13))],
  "torch_dtype": "float32",
  "transformers_version": "4.31.0.dev0",
  "use_swiglu_ffn": False,
}
PROCESSOR = {
  "crop_size": {"height": 224, "width": 224},
  "do_center_crop": True,
  "do_convert_rgb": True,
  "do_normalize": True,
  "do_rescale": True,
  "do_resize": True,
  "image_mean": [0.485, 0.456, 0.406],
  "image_processor_type": "BitImageProcessor",
  "image_std": [0.229, 0.224, 0.225],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {"shortest_edge": 256},
}


def test_the_published_base():
  found = dinov2.config_from_hf(BASE, PROCESSOR, dtype="bfloat16")
  assert found == Dinov2(
    Tower(768, 3072, 12, 12, "gelu", 1e-6, layer_scale=True),
    Preprocessing(256, 224, **IMAGENET),
    image_size=518,
    patch_size=14,
    dtype="bfloat16",
  )


@pytest.mark.parametrize(
  "changes",
  [
    {},
    # As giant's.
    {
      "hidden_size": 1536,
      "num_attention_heads": 24,
      "num_hidden_layers": 3,
      "use_swiglu_ffn": True,
    },
  ],
)
def test_every_tensor_of_the_published_sizes_has_a_rule(tmp_path, changes):
  stages = ("out_features", "out_indices", "stage_names")  # of backbones
  sizes = {k: v for k, v in BASE.items() if k not in stages} | changes
  config = transformers.Dinov2Config(**sizes)
  ours = dinov2.config_from_hf(config.to_dict(), PROCESSOR)
  with torch.device("meta"):
    theirs = transformers.Dinov2Model(config)
  # Names as files have them: transformers 5 renames and splits when it loads.
  small = transformers.Dinov2Config(
    **sizes | {"num_hidden_layers": 1, "hidden_size": 48}
  )
  transformers.Dinov2Model(small).save_pretrained(tmp_path)
  names = safetensors.numpy.load_file(tmp_path / "model.safetensors").keys()
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  table = {rule.hf.replace("{l}", "0") for rule in dinov2.rules(ours)}
  assert table == names - {"embeddings.mask_token"}
  found = sum(leaf.size for leaf in jax.tree.leaves(expected))
  mask = theirs.embeddings.mask_token.numel()
  assert found == sum(p.numel() for p in theirs.parameters()) - mask


def test_what_is_left_out_has_transformers_defaults():
  bare = dinov2.config_from_hf({"model_type": "dinov2"}, {"resample": 3})
  filled = transformers.Dinov2Config().to_dict()
  assert bare == dinov2.config_from_hf(filled, {"do_resize": True})
  assert bare.preprocessing.resize == bare.preprocessing.crop == 224
  assert bare.preprocessing.mean[0] == 0.48145466  # of BiT, not ImageNet's


def test_what_we_write_transformers_loads(tmp_path):
  ours = Dinov2(
    Tower(24, 72, 2, 3, "gelu", 1e-5, layer_scale=True),
    Preprocessing(18, 16, **IMAGENET),
    image_size=16,
    patch_size=4,
  )
  config, preprocessor = dinov2.config_to_hf(ours)
  assert dinov2.config_from_hf(config, preprocessor) == ours
  params = ours.init(jax.random.key(0))
  source = tmp_path / "source"
  source.mkdir()
  (source / "preprocessor_config.json").write_text(json.dumps(preprocessor))
  write_model.write(
    tmp_path / "m",
    config,
    rules.to_hf(dinov2.rules(ours), params),
    dtype="float16",
    source=source,
  )
  theirs, info = transformers.Dinov2Model.from_pretrained(
    tmp_path / "m", output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values()), info
  model, back = random_encoders.opened(tmp_path / "m")
  assert model == ours
  pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
  pixels = pixels.astype(np.float32)
  with torch.no_grad():
    expected = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output
  found = model.class_states(back, pixels)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  processor = transformers.AutoImageProcessor.from_pretrained(
    tmp_path / "m", backend="pil"
  )
  assert type(processor).__name__.startswith("BitImageProcessor")


def test_what_no_config_describes_is_not_written():
  pixels = Preprocessing(18, 16, **IMAGENET)
  for tower in (
    Tower(24, 70, 2, 3, "gelu", layer_scale=True),
    Tower(24, 72, 2, 3, "gelu"),
    Tower(24, 72, 2, 3, "silu", layer_scale=True, gated=True),
  ):
    with pytest.raises(ValueError, match="no config"):
      dinov2.config_to_hf(Dinov2(tower, pixels, 16, 4))


def test_all_that_is_unsupported_in_one_message():
  config = BASE | {"hidden_size": 50, "hidden_act": "relu", "num_channels": 1}
  preprocessor = PROCESSOR | {"do_normalize": False, "crop_size": 300}
  with pytest.raises(UserError) as error:
    dinov2.config_from_hf(config, preprocessor)
  for fault in (
    "num_channels is 1; expected 3",
    "hidden_act is 'relu'",
    "hidden_size 50 is not a multiple of num_attention_heads 12",
    "do_normalize is false",
    "crop_size 300",
  ):
    assert fault in str(error.value)


@pytest.fixture
def folder(tmp_path):
  return random_encoders.save(
    tmp_path / "m", *random_encoders.dinov2("fewer_patches")
  )


def test_half_a_checkpoint(folder):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  del tensors["layernorm.weight"]
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(UserError, match=r"layernorm.weight: missing"):
    encoders.open_encoder(folder, dtype="float32")
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(UserError, match=r"model.safetensors"):
    encoders.open_encoder(folder, dtype="float32")
  path.unlink()
  with pytest.raises(UserError, match=r"no .*safetensors"):
    encoders.open_encoder(folder, dtype="float32")


def test_a_head_for_labels_is_not_the_model(folder):
  random_encoders.edit(
    folder / "config.json", model_type="dinov2_with_registers"
  )
  with pytest.raises(UserError, match=r"'dinov2_with_registers'; expected"):
    encoders.open_encoder(folder, dtype="float32")


def test_no_image_processor(folder):
  (folder / "preprocessor_config.json").unlink()
  with pytest.raises(UserError, match=r"neither preprocessor_config\.json nor"):
    encoders.open_encoder(folder, dtype="float32")
