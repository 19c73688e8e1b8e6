"""Configs of Janus against transformers'."""

import pytest
import transformers

from genrec_jax import testing
from genrec_jax.core.errors import UserError
from genrec_jax.hf import janus_config
from genrec_jax.models import janus_presets
from tests.hf import tiny_janus

IDS = {"bos_id": 0, "pad_id": 2, "boi_id": 4}


def test_config_survives_the_way_to_hf_and_back():
  theirs, ours, _ = tiny_janus.pair()
  config, generation = janus_config.config_to_hf(
    ours, eos_id=testing.EOS, max_positions=256
  )
  assert janus_config.config_from_hf(config, **IDS) == ours
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


def test_a_config_of_transformers_4_is_understood():
  config = tiny_janus.pair()[0].config.to_dict()
  text = dict(config["text_config"])
  del text["rope_parameters"]
  text |= {"rope_theta": 500.0, "rope_scaling": None}
  old = config | {"text_config": text}
  assert janus_config.config_from_hf(old, **IDS) == tiny_janus.pair()[1]


def test_sections_left_out_have_the_defaults_of_transformers():
  ours = janus_config.config_from_hf(
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
  assert ours == janus_presets.janus_pro_1b()


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
    janus_config.config_from_hf(config, **IDS)
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
  with pytest.raises(UserError, match="read at 20 pixels and generated at 10"):
    janus_config.config_from_hf(config, **IDS)


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match="model_type 'llama'; expected 'janus'"):
    janus_config.config_from_hf({"model_type": "llama"}, **IDS)
