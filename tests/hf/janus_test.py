"""The rule table and config of Janus against transformers'."""

import jax
import numpy as np
import pytest
import torch
import transformers

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import janus as hf_janus
from genrec_jax.hf import rules
from genrec_jax.models import janus
from tests.hf import tiny_janus

IDS = {"bos_id": 0, "pad_id": 2, "boi_id": 4}


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


def test_config_survives_the_way_to_hf_and_back():
  theirs, ours, _ = tiny_janus.pair()
  config, generation = hf_janus.config_to_hf(
    ours, eos_id=tiny_janus.EOS, max_positions=256
  )
  assert hf_janus.config_from_hf(config, **IDS) == ours
  # transformers makes the same of it as of the original.
  again = transformers.JanusConfig(**config).to_dict()
  for section in ("text_config", "vision_config", "vq_config"):
    expected = theirs.config.to_dict()[section]
    found = again[section]
    ignored = {"dtype", "architectures", "transformers_version"}
    assert {k: v for k, v in found.items() if k not in ignored} == {
      k: v for k, v in expected.items() if k not in ignored
    }
  assert generation["generation_kwargs"] == {"boi_token_id": tiny_janus.BOI}


@pytest.mark.parametrize(
  ("preset", "width", "mlp_width", "layers", "heads", "pad_id", "image_id"),
  [
    (janus.janus_pro_1b, 2048, 5632, 24, 16, 100002, 100581),
    (janus.janus_pro_7b, 4096, 11008, 30, 32, 100015, 100594),
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
  ours = hf_janus.config_from_hf(config.to_dict(), **ids)
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


def test_a_config_of_transformers_4_is_understood():
  config = tiny_janus.pair()[0].config.to_dict()
  text = dict(config["text_config"])
  del text["rope_parameters"]
  text |= {"rope_theta": 500.0, "rope_scaling": None}
  old = config | {"text_config": text}
  assert hf_janus.config_from_hf(old, **IDS) == tiny_janus.pair()[1]


def test_sections_left_out_have_the_defaults_of_transformers():
  ours = hf_janus.config_from_hf(
    {
      "model_type": "janus",
      "tie_word_embeddings": False,
      "text_config": {
        "vocab_size": 102400,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
      },
    },
    bos_id=100000,
    pad_id=100002,
    boi_id=100016,
  )
  assert ours == janus.janus_pro_1b()


def test_all_that_does_not_fit_is_named():
  config = tiny_janus.pair()[0].config.to_dict()
  config["text_config"] |= {
    "attention_bias": True,
    "rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0},
    "num_key_value_heads": 3,
  }
  config["vision_config"] |= {"use_qk_norm": True, "hidden_act": "mish"}
  config["vq_config"] |= {"projection_dim": 41}
  with pytest.raises(UserError) as error:
    hf_janus.config_from_hf(config, **IDS)
  for part in (
    "attention_bias is True; expected False",
    "rope_type is 'llama3'; expected 'default'",
    "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
    "use_qk_norm is True; expected False",
    "hidden_act is 'mish'; expected one of gelu",
    "vq_config: projection_dim is 41; expected 40",
  ):
    assert part in str(error.value)


def test_towers_that_do_not_fit_are_refused():
  config = tiny_janus.pair()[0].config.to_dict()
  config["vq_config"] |= {"channel_multiplier": [1, 2]}
  with pytest.raises(UserError, match="read at 20 pixels and drawn at 10"):
    hf_janus.config_from_hf(config, **IDS)


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match="model_type 'llama'; expected 'janus'"):
    hf_janus.config_from_hf({"model_type": "llama"}, **IDS)
