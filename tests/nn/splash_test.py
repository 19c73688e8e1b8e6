"""The splash kernel, interpreted: masks, padding and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.nn import attention, splash

WIDTH = 128  # of the narrowest heads that the kernel takes


@pytest.mark.parametrize(
  ("samples", "queries"), [(0, 1), (3, 1), (2, 2)], ids=str
)
def test_it_equals_attention_in_blocks(samples, queries):
  p, kv, t, i = 2, 2, 90, 50  # neither fills blocks of 128
  n = t + samples * i
  rng = np.random.default_rng(0)
  q, weights = rng.normal(size=(2, p, kv, 1, queries, n, WIDTH))
  k, v = rng.normal(size=(2, p, kv, 1, n, WIDTH)).astype(np.float32)
  mask = np.arange(t) >= np.array([[7], [0]])  # the first is padded
  answers = np.ones((p, samples, i), bool)
  answers[0, :, 20:30] = False  # as after a short title
  flat = np.concatenate([mask, answers.reshape(p, -1)], 1)
  real = flat[:, None, None, None, :, None]
  weights = (weights * real).astype(np.float32)  # padding is read by no one

  def interpreted(q, k, v):
    options = {"block": 128, "interpret": True}
    return splash.attend_shared(
      q, k, v, jnp.asarray(flat), t, samples, **options
    )

  def in_blocks(q, k, v):
    masks = jnp.asarray(mask), samples, jnp.asarray(answers)
    return attention.attend_shared(q, k, v, *masks)

  def gradients(attend):
    def loss(q, k, v):
      out = attend(q, k, v)
      return jnp.sum(out * weights), out

    both = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(both)(q.astype(np.float32), k, v)

  (_, out), found = gradients(interpreted)
  (_, expected_out), expected = gradients(in_blocks)
  np.testing.assert_allclose(out * real, expected_out * real, atol=1e-5)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_answer_sees_the_prompt_and_itself():
  # Two tokens of a prompt, two answers of two.
  seen = splash._Shared(6, 2, 2)[0:6, 0:6]
  np.testing.assert_array_equal(
    seen.astype(int),
    [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 0],
      [1, 1, 0, 0, 1, 0],
      [1, 1, 0, 0, 1, 1],
    ],
  )


@pytest.mark.parametrize(
  ("prompt", "samples", "answer", "pairs"),
  [
    (192, 0, 0, 3),
    # Three blocks, the last filled up; of nine pairs causality leaves six.
    (192, 2, 64, 6),
    # An answer a block: each sees the prompt's and its own.
    (128, 3, 128, 1 + 3 * 2),
  ],
)
def test_its_name_tells_how_many_blocks_it_computes(
  prompt, samples, answer, pairs
):
  """`analysis.hlo_kernels` counts by it, as no compiler does."""
  tokens = prompt + samples * answer
  real = jnp.ones((1, tokens), bool)

  def attend(q, k):
    options = {"block": 128, "interpret": True}
    return splash.attend_shared(q, k, k, real, prompt, samples, **options)

  shapes = (1, 2, 1, 1, tokens, WIDTH), (1, 2, 1, tokens, WIDTH)
  text = jax.jit(attend).lower(*map(jnp.zeros, shapes)).as_text(debug_info=True)
  assert set(re.findall(r"splash_(\d+)x128", text)) == {str(pairs)}
