"""Shared-prefix attention against attention to a repeated prefix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.nn import attention, cudnn, splash
from tests import rounding

P, K, G, R, T, S, H = 2, 3, 4, 2, 5, 7, 6
# A score, then the softmax and the sum over all keys.
TERMS = H + 2 * (S + T)


def draw(key, *shape, dtype="float32"):
  return jax.random.normal(jax.random.key(key), shape).astype(dtype)


@pytest.fixture(params=[attention._BLOCK, 2], ids=["whole", "blocks"])
def inputs(request, monkeypatch):
  monkeypatch.setattr(attention, "_BLOCK", request.param)
  return {
    "q": draw(0, P, K, G, R, T, H),
    "k": draw(1, P, K, G, T, H),
    "v": draw(2, P, K, G, T, H),
    "keys": draw(3, P, K, S, H),
    "values": draw(4, P, K, S, H),
  }


SEEN = jnp.arange(S)[None] >= jnp.array([[0], [3]])  # [P, S]
CAUSAL = jnp.tri(T, dtype=bool)


def shared(x):
  return attention.attend(
    x["q"],
    x["k"],
    x["v"],
    prefix=(x["keys"].swapaxes(2, 3), x["values"], SEEN),
    causal=True,
  )


def repeated(x, mask=SEEN):
  """Every sample with its own copy of the prefix, plainly written."""

  def per_sample(prefix):
    return jnp.broadcast_to(prefix[:, :, None], (P, K, G, S, H))

  k = jnp.concatenate([per_sample(x["keys"]), x["k"]], 3)
  v = jnp.concatenate([per_sample(x["values"]), x["v"]], 3)
  scores = jnp.einsum("pkgrth,pkgsh->pkgrts", x["q"], k) / np.sqrt(H)
  seen = jnp.concatenate(
    [
      jnp.broadcast_to(mask[:, None], (P, T, S)),
      jnp.broadcast_to(CAUSAL[None], (P, T, T)),
    ],
    -1,
  )
  scores = jnp.where(seen[:, None, None, None], scores, -jnp.inf)
  return jnp.einsum("pkgrts,pkgsh->pkgrth", jax.nn.softmax(scores), v)


def test_a_shared_prefix_is_one_repeated_for_each_sample(inputs):
  rounding.assert_close(shared(inputs), repeated(inputs), terms=TERMS)


def test_its_gradient_too(inputs):
  direction = draw(9, P, K, G, R, T, H)

  def along(function):
    return jax.grad(lambda x: jnp.sum(function(x) * direction))(inputs)

  # There, back, and over the queries that read a key.
  rounding.assert_close(
    along(shared), along(repeated), terms=2 * TERMS + G * R * T
  )


@pytest.mark.parametrize("block", [attention._BLOCK, 3])
def test_self_attention_is_that_of_jax(monkeypatch, block):
  monkeypatch.setattr(attention, "_BLOCK", block)
  q, k, v = (draw(i, 3, 8, 12) for i in range(3))
  mask = jnp.tri(8, dtype=bool)[None]
  found = attention.self_attention(q, k, v, 4, mask)
  expected = jax.nn.dot_product_attention(
    *(x.reshape(3, 8, 4, 3) for x in (q, k, v)), mask=mask[:, None]
  )
  # Queries and keys 3 wide; 8 keys in the softmax and in the sum.
  rounding.assert_close(found, expected.reshape(3, 8, 12), terms=3 + 2 * 8)


def test_a_row_that_sees_nothing_stays_finite(inputs):
  nothing = jnp.zeros((1, 1, 1, 1, T, T), bool)
  out = attention.attend(inputs["q"], inputs["k"], inputs["v"], nothing)
  assert np.isfinite(out).all()


def test_bfloat16_keeps_its_type_and_a_float32_softmax():
  q, k, v = (draw(i, 1, 64, 32, dtype="bfloat16") for i in range(3))
  found = attention.self_attention(q, k, v, 2)
  assert found.dtype == jnp.bfloat16
  exact = attention.self_attention(
    *(x.astype(jnp.float32) for x in (q, k, v)), 2
  )
  # One rounding of the weights and one of the result.
  np.testing.assert_allclose(
    found.astype(jnp.float32), exact, atol=2**-7 * float(jnp.abs(exact).max())
  )


@pytest.mark.parametrize("block", [attention._BLOCK, 2])
def test_prompts_and_answers_of_one_pass_are_those_of_two(monkeypatch, block):
  monkeypatch.setattr(attention, "_BLOCK", block)
  mask = SEEN & (jnp.arange(S)[None] > 0)
  q = draw(5, P, K, 1, R, S + G * T, H)
  k, v = (draw(i, P, K, 1, S + G * T, H) for i in (6, 7))
  found = attention.attend_shared(q, k, v, mask, G)

  def answers(x):
    """Splits [..., G T, H] into [..., G, T, H]."""
    return x[..., S:, :].reshape(*x.shape[:-2], G, T, H)

  keys, values = k[:, :, 0, :S], v[:, :, 0, :S]
  x = {
    "q": answers(q)[:, :, 0].swapaxes(2, 3),
    "k": answers(k)[:, :, 0],
    "v": answers(v)[:, :, 0],
    "keys": keys,
    "values": values,
  }
  rounding.assert_close(
    answers(found)[:, :, 0].swapaxes(2, 3), repeated(x, mask), terms=TERMS
  )
  seen = jnp.tri(S, dtype=bool)[(None,) * 4]
  seen &= mask[:, None, None, None, None]
  alone = attention.attend(q[..., :S, :], k[..., :S, :], v[..., :S, :], seen)
  real = np.asarray(mask)
  rounding.assert_close(
    np.moveaxis(found[..., :S, :], 4, 1)[real],
    np.moveaxis(alone, 4, 1)[real],
    terms=TERMS,
  )


@pytest.mark.parametrize(
  ("platform", "dtype", "width", "expected"),
  [
    ("cpu", "bfloat16", 128, None),
    ("tpu", "bfloat16", 128, splash.attend_shared),
    ("tpu", "float32", 256, splash.attend_shared),
    ("tpu", "bfloat16", 64, None),
    ("gpu", "bfloat16", 64, cudnn.attend_shared),
    ("cuda", "float16", 128, cudnn.attend_shared),
    ("gpu", "bfloat16", 96, None),
    ("gpu", "float32", 128, None),
  ],
)
def test_a_kernel_is_taken_where_it_takes_such_heads(
  platform, dtype, width, expected
):
  found = attention._kernel(platform, jnp.zeros((1, 1, 1, 1, 1, width), dtype))
  assert getattr(found, "func", found) is expected


def test_an_answer_by_itself_is_a_longer_prompt(monkeypatch):
  """To a kernel: as one prompt it skips what is not causal."""
  q, k, v = draw(5, P, K, 1, R, S + T, H), *draw(6, 2, P, K, 1, S + T, H)
  expected = attention.attend_shared(q, k, v, SEEN, 1)
  given = []

  def kernel(q, k, v, real, prompt, samples):
    given.append((prompt, samples))
    answers = real[:, prompt:].reshape(P, samples, -1) if samples else None
    return attention._shared_in_blocks(
      q, k, v, real[:, :prompt], samples, answers
    )

  monkeypatch.setattr(attention, "_kernel", lambda *_: kernel)
  found = attention.attend_shared(q, k, v, SEEN, 1)
  assert given == [(S + T, 0)]
  # Not one with padding, which what comes after would see.
  attention.attend_shared(q, k, v, SEEN, 1, jnp.ones((P, 1, T), bool))
  assert given == [(S + T, 0), (S, 1)]
  shown = np.concatenate([SEEN, np.ones((P, T), bool)], 1)
  rounding.assert_close(
    np.moveaxis(found, 4, 1)[shown],
    np.moveaxis(expected, 4, 1)[shown],
    terms=TERMS,
  )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
  ("model", "part"), [(1, None), (2, (1, 2)), (8, None)], ids=str
)
def test_a_kernel_is_given_each_device_s_own(monkeypatch, padded, model, part):
  """Its prompts and whole heads; which tokens are real, answers' as well."""
  p, kv, t, g, i = 4, 4, S, 2, 3
  mask = np.arange(t) >= np.array([[0], [3], [1], [2]])
  real_answers = np.ones((p, g, i), bool)
  real_answers[:, 1, 2] = not padded
  q, k, v = (
    draw(n, *shape, t + g * i, H)
    for n, shape in enumerate([(p, kv, 1, R), (p, kv, 1), (p, kv, 1)])
  )
  masks = jnp.asarray(mask), g, jnp.asarray(real_answers) if padded else None
  parts = []

  def kernel(q, k, v, real, prompt, samples):
    parts.append(q.shape[:2])
    answers = real[:, prompt:].reshape(len(real), samples, -1)
    return attention._shared_in_blocks(
      q, k, v, real[:, :prompt], samples, answers
    )

  expected = attention.attend_shared(q, k, v, *masks)
  monkeypatch.setattr(attention, "_kernel", lambda *_: kernel)
  given = (q, k, v)
  if model == 1:  # no mesh at all
    run, part = attention.attend_shared, (p, kv)
  else:
    mesh = mesh_lib.make_mesh(model=model)
    run = sharding.trace_with_mesh(mesh, attention.attend_shared)
    given = jax.device_put(
      given, jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
  found = jax.jit(lambda q, k, v: run(q, k, v, *masks))(*given)
  assert parts == ([part] if part else [])
  shown = np.concatenate([mask, real_answers.reshape(p, -1)], 1)
  rounding.assert_close(
    np.moveaxis(found, 4, 1)[shown],
    np.moveaxis(expected, 4, 1)[shown],
    terms=TERMS,
  )
