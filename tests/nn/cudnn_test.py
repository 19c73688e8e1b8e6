"""cuDNN's place in attention: the same masks, with XLA's products for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.nn import attention, cudnn


@pytest.fixture
def by_xla(monkeypatch):
  """Puts XLA's own attention in the place of cuDNN's, which needs a GPU."""
  attend = jax.nn.dot_product_attention

  def replaced(*args, implementation, **options):
    assert implementation == "cudnn"
    q, k = args[:2]
    assert q.shape[1] % 2 == k.shape[1] % 2 == 0  # else it has no gradient
    # With either alone it skips nothing, or sees padding.
    assert ("mask" in options) != ("is_causal" in options)
    return attend(*args, implementation="xla", **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", replaced)


@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("queries", [1, 2])
def test_it_equals_attention_in_blocks(by_xla, samples, queries):
  p, kv, t, i, h = 2, 2, 5, 3, 8
  n = t + samples * i
  rng = np.random.default_rng(0)
  q, weights = rng.normal(size=(2, p, kv, 1, queries, n, h)).astype(np.float32)
  k, v = rng.normal(size=(2, p, kv, 1, n, h)).astype(np.float32)
  mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
  answers = np.ones((p, samples, i), bool)
  if samples > 1:
    answers[0, :, 1] = False  # as after a short title
  real = np.concatenate([mask, answers.reshape(p, -1)], 1)
  weights *= real[:, None, None, None, :, None]  # padding is read by no one

  def by_cudnn(q, k, v):
    return cudnn.attend_shared(q, k, v, jnp.asarray(real), t, samples)

  def in_blocks(q, k, v):
    masks = jnp.asarray(mask), samples, jnp.asarray(answers)
    return attention.attend_shared(q, k, v, *masks)

  def loss(attend, *inputs):
    out = attend(*inputs)
    return jnp.sum(out * weights), out

  found, expected = (
    jax.jit(
      jax.value_and_grad(
        lambda *x, attend=attend: loss(attend, *x),
        argnums=(0, 1, 2),
        has_aux=True,
      )
    )(q, k, v)
    for attend in (by_cudnn, in_blocks)
  )
  shown = real[:, None, None, None, :, None]
  np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
  np.testing.assert_allclose(
    found[0][1] * shown, expected[0][1] * shown, atol=1e-5
  )
  for one, other in zip(found[1], expected[1], strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
