import transformers

from genrec_jax.hf import defaults


def test_what_is_left_out_is_filled_in_and_the_config_is_left_alone():
  config = {"model_type": "clip", "text_config_dict": {"hidden_size": 64}}
  whole, problems = defaults.fill(transformers.CLIPConfig, config)
  assert not problems
  assert whole["text_config"]["hidden_size"] == 64
  assert whole["vision_config"]["patch_size"] == 32
  assert config["text_config_dict"] == {"hidden_size": 64}


def test_what_transformers_refuses_is_one_line():
  config = {"model_type": "janus", "text_config": {"hidden_size": "a"}}
  whole, problems = defaults.fill(transformers.JanusConfig, config)
  assert whole == config
  assert problems == ["Field 'hidden_size' expected int, got str (value: 'a')"]


def test_keys_left_out_are_no_mismatch():
  values = {"a": 1, "b": 2}
  expected = {"a": 1, "b": 3, "c": 4}
  found = defaults.mismatches("text_config", values, expected)
  assert found == ["text_config: b is 2; expected 3"]
