"""Towers in HF configs: what is read of them, and what is refused."""

import pytest

from genrec_jax.hf import towers

SECTION = {
  "hidden_size": 24,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-6,
}


def test_fields_have_our_names():
  assert towers.fields(SECTION | {"other": 1}) == {
    "width": 24,
    "mlp_width": 48,
    "num_layers": 2,
    "num_heads": 3,
    "activation": "gelu",
    "norm_epsilon": 1e-6,
  }


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({}, None),
    ({"hidden_act": "silu", "size": 3}, None),
    (
      {"hidden_act": "relu"},
      "text: hidden_act is 'relu'; expected one of gelu",
    ),
    (
      {"hidden_size": 25},
      "text: hidden_size 25 is not a multiple of num_attention_heads 3",
    ),
    ({"size": [3, 3]}, r"text: size is [3, 3]; expected one integer"),
  ],
)
def test_what_no_tower_does_is_a_problem(changed, message):
  found = towers.problems("text", SECTION | changed, ("size",))
  assert len(found) == bool(message)
  if message:
    assert found[0].startswith(message)


def test_keys_left_out_are_no_problem():
  assert towers.problems("text", {}, ("size",)) == []
