"""Encoders in HF format: which folder is one, and what a metric calls it."""

import json
import shutil

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.hf import encoders, load, locate


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("facebook/dinov2-base", "dinov2_base"),
    ("google/siglip-so400m-patch14-384", "siglip_so400m_patch14_384"),
    ("/models/ViT-L.14 (2)/", "ViT_L_14_2"),
    ("hub/models--facebook--dinov2-base/snapshots/f9e44c", "dinov2_base"),
    ("a/../my_judge", "my_judge"),
    ("/", ""),
  ],
)
def test_a_name_is_the_folder_s(path, name):
  assert encoders.name_of(path) == name


def test_a_folder_without_a_name_of_its_own(tmp_path, monkeypatch):
  (tmp_path / "judge" / "inner").mkdir(parents=True)
  monkeypatch.chdir(tmp_path / "judge")
  assert encoders.name_of(".") == "judge"
  assert encoders.name_of("inner/..") == "judge"


def test_the_reward_s_clip_is_an_encoder():
  handle = encoders.open_encoder("tiny_clip", dtype="float32")
  clip, params, _ = load.load_clip("tiny_clip", dtype="float32")
  assert handle.name == "tiny_clip"
  assert handle.model == clip
  assert handle.model.embed_dim == 32
  assert handle.tokenizer.model_max_length == handle.model.text_positions == 32
  np.testing.assert_array_equal(
    handle.read()["visual_projection"]["kernel"],
    params["visual_projection"]["kernel"],
  )


def test_another_model_is_refused(tmp_path):
  shutil.copytree(locate.ASSETS / "tiny_clip", tmp_path / "m")
  path = tmp_path / "m" / "config.json"
  path.write_text(json.dumps({"model_type": "blip"}))
  with pytest.raises(UserError, match=r"'blip'; expected 'clip'.*dinov2"):
    encoders.open_encoder(tmp_path / "m", dtype="float32")
  with pytest.raises(UserError, match=r"'blip'; expected 'clip' with .*BLIP"):
    load.open_clip(tmp_path / "m", dtype="float32")
