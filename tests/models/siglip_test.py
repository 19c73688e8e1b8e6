"""The vision tower against transformers'."""

import jax
import numpy as np
import pytest
import torch

from genrec_jax.core import tree
from tests import rounding
from tests.hf import tiny_janus


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no_bias"])
def pair(request):
  theirs = tiny_janus.torch_model(vision={"attention_bias": request.param})
  ours, params = tiny_janus.ours_of(theirs)
  return theirs.model.vision_model, ours.vision, params["vision"]


def test_a_layer_matches(pair):
  theirs, ours, params = pair
  x = jax.random.normal(jax.random.key(0), (2, ours.num_patches, ours.width))
  with torch.no_grad():
    layer = theirs.encoder.layers[1]
    expected = layer(torch.tensor(np.asarray(x)), None).numpy()
  layer = jax.tree.map(lambda leaf: leaf[1], params["layers"])
  found = ours.block().apply({"params": layer}, x)
  rounding.assert_close(found, expected, terms=tiny_janus.VISION_LAYER_TERMS)


def test_features_match(pair):
  theirs, ours, params = pair
  side = ours.image_size
  pixels = np.random.default_rng(0).uniform(-1, 1, (3, side, side, 3))
  pixels = pixels.astype(np.float32)
  with torch.no_grad():
    images = torch.tensor(pixels.transpose(0, 3, 1, 2))
    expected = theirs(images).last_hidden_state.numpy()
  found = jax.jit(ours.features)(params, pixels)
  assert found.shape == (3, ours.num_patches, ours.width)
  # A patch has 4 x 4 x 3 numbers; the last norm is over the width.
  layers = tiny_janus.VISION["num_hidden_layers"]
  terms = 48 + layers * tiny_janus.VISION_LAYER_TERMS + 36
  rounding.assert_close(found, expected, terms=terms)


def test_images_of_another_size_are_refused(pair):
  _, ours, params = pair
  with pytest.raises(ValueError, match=r"\(8, 8, 3\).*\(20, 20, 3\)"):
    ours.features(params, np.zeros((1, 8, 8, 3), np.float32))


def test_init_matches_the_checkpoint_s_tree(pair):
  _, ours, params = pair
  assert not tree.diff(jax.eval_shape(ours.init, jax.random.key(0)), params)
