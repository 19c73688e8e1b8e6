"""Eight bits: how far they are from what they stand for, and their products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.nn import int8, layers, token_attention


def kernel(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_kernel_is_within_half_a_scale_of_its_own():
  wide = kernel(3, 40, 5)
  wide[1, :, 2] = 0  # an output without weights
  wide[2, 7, 4] = 50  # whose column has a scale of its own
  narrow, scale = int8.rounded(jnp.asarray(wide), -2)
  assert narrow.dtype == jnp.int8
  np.testing.assert_allclose(
    scale, np.where(np.abs(wide).max(1) > 0, np.abs(wide).max(1) / 127, 1), 1e-6
  )
  back = np.asarray(narrow, np.float32) * np.asarray(scale)[:, None]
  assert np.all(np.abs(back - wide) <= 0.5001 * np.asarray(scale)[:, None])
  assert np.abs(np.asarray(narrow)).max(1)[0].tolist() == [127] * 5


def test_kernels_by_hand():
  narrow, scale = int8.rounded(jnp.array([[1.27, -4.0], [-0.634, 2.0]]), -2)
  np.testing.assert_array_equal(narrow, [[127, -127], [-63, 64]])
  np.testing.assert_allclose(scale, [0.01, 4 / 127], rtol=1e-6)


def test_a_layer_multiplies_by_kernel_and_scales():
  x, wide = kernel(4, 6), kernel(6, 3)
  narrow, scale = int8.rounded(jnp.asarray(wide), -2)
  params = {
    "kernel": narrow,
    int8.SCALE: scale,
    "bias": jnp.ones(3),
    "lora_a": jnp.ones((6, 1)),
    "lora_b": jnp.ones((1, 3)),
  }
  found = layers.apply(layers.Linear(3, "float32"), params, x)
  whole = np.asarray(narrow, np.float32) * np.asarray(scale)
  # Neither adapters nor the bias are scaled.
  expected = x @ whole + 2 * x.sum(1, keepdims=True) + 1
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("samples_see_all", [True, False])
def test_attention_to_vectors_is_that_to_what_they_stand_for(samples_see_all):
  p, kv, g, s, t, h = 2, 3, 4, 6, 5, 8
  q = jnp.asarray(kernel(p, kv, g, 2, 1, h))
  own = [int8.vectors(jnp.asarray(kernel(p, kv, g, s, h))) for _ in range(2)]
  prefix = [int8.vectors(jnp.asarray(kernel(p, kv, t, h))) for _ in range(2)]
  seen = jnp.arange(t)[None] >= jnp.array([[0], [3]])  # [P, T]
  if not samples_see_all:
    seen = jnp.broadcast_to(seen[:, None], (p, g, t))
  mask = (jnp.arange(s) < 4).reshape(1, 1, 1, 1, 1, -1)

  def attend(own, keys, values):
    found = jnp.asarray(mask)
    return token_attention.attend(q, *own, found, (keys, values, seen))

  def whole(x):
    return x.wide * x.scale[..., None]

  found = attend(own, int8.transposed(prefix[0]), prefix[1])
  keys, values = map(whole, prefix)
  expected = attend(map(whole, own), keys.swapaxes(-1, -2), values)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_vectors_have_another_shape_together():
  x = int8.vectors(jnp.asarray(kernel(6, 4, 8)))
  found = int8.upto(int8.reshaped(x, (2, 3, 4, 8)), 1)
  assert found.shape == (2, 3, 1, 8)
  np.testing.assert_array_equal(found.values[1, 2, 0], x.values[5, 0])
  np.testing.assert_array_equal(found.scale[1, 2, 0], x.scale[5, 0])


def test_what_is_narrow_stays_so_when_all_else_is_cast():
  params = {"a": {"kernel": jnp.ones((2, 3, 4))}, "b": jnp.ones(2)}
  narrow = int8.narrowed(params, "a/kernel")
  found = jax.tree.map(lambda x: x.dtype.name, int8.cast(narrow, "bfloat16"))
  assert found == {
    "a": {"kernel": "int8", int8.SCALE: "float32"},
    "b": "bfloat16",
  }
