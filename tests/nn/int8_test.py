"""Kernels in eight bits: how far they are from the kernel, their product."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.nn import int8, layers


def kernel(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_kernel_is_within_half_a_scale_of_its_own():
  wide = kernel(3, 40, 5)
  wide[1, :, 2] = 0  # an output without weights
  wide[2, 7, 4] = 50  # whose column has a scale of its own
  narrow, scale = int8.rounded(jnp.asarray(wide))
  assert narrow.dtype == jnp.int8
  np.testing.assert_allclose(
    scale, np.where(np.abs(wide).max(1) > 0, np.abs(wide).max(1) / 127, 1), 1e-6
  )
  back = np.asarray(narrow, np.float32) * np.asarray(scale)[:, None]
  assert np.all(np.abs(back - wide) <= 0.5001 * np.asarray(scale)[:, None])
  assert np.abs(np.asarray(narrow)).max(1)[0].tolist() == [127] * 5


def test_kernels_by_hand():
  narrow, scale = int8.rounded(jnp.array([[1.27, -4.0], [-0.634, 2.0]]))
  np.testing.assert_array_equal(narrow, [[127, -127], [-63, 64]])
  np.testing.assert_allclose(scale, [0.01, 4 / 127], rtol=1e-6)


def test_a_layer_multiplies_by_kernel_and_scales():
  x, wide = kernel(4, 6), kernel(6, 3)
  narrow, scale = int8.rounded(jnp.asarray(wide))
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


def test_what_is_narrow_stays_so_when_all_else_is_cast():
  params = {"a": {"kernel": jnp.ones((2, 3, 4))}, "b": jnp.ones(2)}
  narrow = int8.narrowed(params, "a/kernel")
  found = jax.tree.map(lambda x: x.dtype.name, int8.cast(narrow, "bfloat16"))
  assert found == {
    "a": {"kernel": "int8", int8.SCALE: "float32"},
    "b": "bfloat16",
  }
