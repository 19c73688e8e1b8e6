"""The encoder layer; each tower's test compares it with transformers'."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core import tree
from genrec_jax.nn import encoder

X = jax.random.normal(jax.random.key(1), (2, 5, 8))
BLOCK = encoder.EncoderBlock(11, 2, "gelu", 1e-6, "float32")


def test_mlp_keeps_the_width():
  mlp = encoder.MLP(11, "gelu", "float32")
  params = mlp.init(jax.random.key(0), X)["params"]
  assert params["fc1"]["kernel"].shape == (8, 11)
  assert mlp.apply({"params": params}, X).shape == X.shape


def test_biases_and_the_last_projection_are_named_as_asked():
  block = encoder.EncoderBlock(
    11, 2, "gelu", 1e-6, "float32", qkv_bias=False, output_name="o"
  )
  params = tree.flatten(block.init(jax.random.key(0), X)["params"])
  attention = {k for k in params if k.startswith("self_attn/")}
  assert attention == {
    *(f"self_attn/{name}_proj/kernel" for name in "qkv"),
    "self_attn/o/kernel",
    "self_attn/o/bias",
  }


def test_a_masked_position_changes_no_other():
  params = BLOCK.init(jax.random.key(0), X)
  mask = jnp.ones((1, 5, 5), bool).at[:, :4, 4].set(False)
  # No constant: the norm takes that off again.
  changed = X.at[:, 4].set(-X[:, 4, ::-1])
  before, after = (BLOCK.apply(params, x, mask) for x in (X, changed))
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert not np.allclose(
    BLOCK.apply(params, X)[:, :4], BLOCK.apply(params, changed)[:, :4]
  )
