"""The rule table and config of Janus against transformers'."""

import jax
import numpy as np
import pytest
import torch
import transformers

from genrec_jax.core import tree
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import janus_config, rules
from genrec_jax.models import janus_presets
from tests.hf import tiny_janus


@pytest.mark.parametrize("tied", [True, False])
def test_import_then_export_is_bit_identical(tied):
  theirs = tiny_janus.torch_model(tied=tied)
  ours, params = tiny_janus.ours_of(theirs)
  tensors = rules.to_hf(hf_janus.rules(ours), params)
  original = tiny_janus.tensors_of(theirs)
  assert tensors.keys() == original.keys()
  for name, value in original.items():
    assert tensors[name].dtype == value.dtype
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)


@pytest.mark.parametrize(
  ("preset", "width", "mlp_width", "layers", "heads", "pad_id", "image_id"),
  [
    (janus_presets.janus_pro_1b, 2048, 5632, 24, 16, 100002, 100581),
    (janus_presets.janus_pro_7b, 4096, 11008, 30, 32, 100015, 100594),
  ],
)
def test_presets_are_the_published_models(
  preset, width, mlp_width, layers, heads, pad_id, image_id
):
  config = tiny_janus.published_config(
    width,
    mlp_width,
    layers,
    heads,
    image_id=image_id,
    bos_token_id=100000,
    eos_token_id=100001,
    pad_token_id=pad_id,
  )
  ids = {"bos_id": 100000, "pad_id": pad_id, "boi_id": 100016}
  ours = janus_config.config_from_hf(config.to_dict(), **ids)
  assert ours == preset()
  with torch.device("meta"):
    theirs = transformers.JanusForConditionalGeneration(config)
  tensors = {
    name: jax.ShapeDtypeStruct(tuple(tensor.shape), np.float32)
    for name, tensor in theirs.state_dict().items()
  }
  # Raises unless every tensor is matched, in name and shape, by exactly one
  # rule, and every rule matches a tensor.
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  stored = rules.to_params(hf_janus.rules(ours), tensors, expected)
  names = [name for s in tree.flatten(stored).values() for name in s.names]
  assert sorted(names) == sorted(tensors)
