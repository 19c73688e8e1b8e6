"""Judges: opened from folders, independent, the same function as the model."""

import shutil

import jax
import numpy as np
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.errors import UserError
from genrec_jax.data import world
from genrec_jax.evals import encoders
from genrec_jax.hf import load, locate
from tests import rounding


@pytest.fixture(scope="module")
def encoder():
  handles = encoders.open_judges(("tiny_clip",), "tiny_sft", dtype="float32")
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  return encoders.read_judges(handles, mesh)[0]


def test_images_and_texts_as_the_model_has_them(encoder):
  clip, params, tokenizer = load.load_clip("tiny_clip", dtype="float32")
  truth = world.attributes(np.arange(0, world.NUM_ITEMS, 500))  # [6, 5]
  images = world.render(truth).reshape(3, 2, 32, 32, 3)
  found = encoder.embed_images(images)
  assert found.shape == (3, 2, 32)
  expected = clip.embed_images(params, images / np.float32(255))
  rounding.assert_close(found, expected, terms=1000)
  titles = [world.title(item) for item in truth]
  tokens = tokenizer(titles, padding=True, return_tensors="np")
  expected = clip.embed_texts(
    params, tokens["input_ids"], tokens["attention_mask"].astype(bool)
  )
  rounding.assert_close(encoder.embed_texts(titles), expected, terms=1000)


def test_long_texts_are_cut(encoder):
  ids, mask = encoders.tokenize(
    encoder.tokenizer, ["circle " * 100, "a"], reads_padding=False
  )
  assert ids.shape == mask.shape == (2, 32)
  assert mask.sum(1).tolist() == [32, 3]


def test_a_copy_of_the_reward_s_clip_is_no_judge(tmp_path):
  copy = str(tmp_path / "another")
  shutil.copytree(locate.ASSETS / "tiny_clip", copy)
  with pytest.raises(UserError, match=r"another has the weights of clip\.che"):
    encoders.open_judges((copy,), "tiny_clip", dtype="float32")
  with pytest.raises(UserError, match="another has the weights of tiny_clip"):
    encoders.open_judges(("tiny_clip", copy), "tiny_sft", dtype="float32")


def test_the_rater_of_quality():
  assert encoders.open_rater("", dtype="float32") is None
  rater = encoders.open_rater("tiny_clip", dtype="float32")
  assert rater.name == "quality_tiny_clip"
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  (found,) = encoders.read_judges((), mesh, rater=rater)
  assert found.rates
  assert found.params["logit_scale"].shape == ()
  with pytest.raises(UserError, match="'dinov2'; expected 'clip'"):
    encoders.open_rater("tiny_judge", dtype="float32")


def test_no_judge_reads_nothing():
  # A checkpoint that does not exist is not hashed.
  assert encoders.open_judges((), "nowhere", dtype="float32") == ()
