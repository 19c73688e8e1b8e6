"""A token's attention by a kernel for caches: the same as by products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.nn import attention, int8, token_attention, triton

P, K, G, R, S, H = 4, 4, 3, 2, 96, 128
PREFIX = 20
FILLED = 21


def draw(key, *shape):
  return jax.random.normal(jax.random.key(key), shape).astype("bfloat16")


@pytest.fixture
def inputs():
  """Queries, a cache of which the first `FILLED` are there, and a prefix."""
  cache = (P, K, G, S, H)
  seen = jnp.arange(PREFIX)[None] >= jnp.array([[0], [3], [19], [1]])
  prefix = draw(3, P, K, H, PREFIX), draw(4, P, K, PREFIX, H), seen
  mask = (jnp.arange(S) < FILLED).reshape(1, 1, 1, 1, 1, -1)
  # What is not there yet may be anything: a kernel must not look at it.
  k, v = (
    jnp.where(mask.reshape(1, 1, 1, -1, 1), x, 100)
    for x in (draw(1, *cache), draw(2, *cache))
  )
  return draw(0, P, K, G, R, 1, H), k, v, mask, prefix


@pytest.fixture
def on_gpu(monkeypatch):
  """Takes the kernels of a GPU, which an interpreter runs."""
  run = functools.partial(triton.attend_own, interpret=True)
  calls = []

  def counted(*args):
    calls.append([x.shape for x in args])
    return run(*args)

  monkeypatch.setattr(sharding, "platform", lambda: "gpu")
  monkeypatch.setattr(triton, "attend_own", counted)
  return calls


def exactly(q, k, v, mask, prefix):
  """The same in float32, where products round nothing away."""
  wide = [x.astype(jnp.float32) for x in (q, k, v)]
  keys, values, seen = prefix
  prefix = keys.astype(jnp.float32), values.astype(jnp.float32), seen
  return attention.attend(*wide, mask, prefix)


def assert_close(found, inputs):
  exact = exactly(*inputs)
  # One rounding of the weights, one of the sum and one of the result.
  bound = 3 * 2**-8 * float(jnp.abs(exact).max())
  np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=bound)


def test_a_kernel_attends_to_what_is_filled_and_to_the_prefix(on_gpu, inputs):
  found = token_attention.attend(*inputs, filled=jnp.int32(FILLED), unread=16)
  assert found.dtype == jnp.bfloat16
  assert len(on_gpu) == 1
  assert_close(found, inputs)


def test_a_prefix_far_above_own_keys_does_not_overflow(on_gpu, inputs):
  q, k, v, mask, (keys, values, seen) = inputs
  inputs = q, k, v, mask, (keys * 200, values, seen)
  found = token_attention.attend(*inputs, filled=jnp.int32(FILLED))
  assert on_gpu
  assert_close(found, inputs)


@pytest.mark.parametrize("model", [2, 8])
def test_each_device_runs_it_on_its_own(on_gpu, inputs, model):
  """On its prompts and whole heads, where it has any."""
  mesh = mesh_lib.make_mesh(model=model)
  attend = functools.partial(token_attention.attend, filled=jnp.int32(FILLED))
  given = jax.device_put(
    inputs, jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
  )
  found = jax.jit(sharding.trace_with_mesh(mesh, attend))(*given)
  assert [shapes[0][:2] for shapes in on_gpu] == (
    [(1, 2)] if model == 2 else []
  )
  assert_close(found, inputs)


def test_a_cache_of_which_others_are_seen_has_no_kernel(on_gpu, inputs):
  found = token_attention.attend(*inputs, unread=16)
  assert not on_gpu
  assert_close(found, inputs)


@pytest.mark.parametrize(
  ("platform", "dtype", "width", "room", "taken"),
  [
    ("gpu", "bfloat16", 128, 576, True),
    ("cuda", "float16", 128, 1056, True),
    ("gpu", "bfloat16", 128, 577, False),
    ("gpu", "bfloat16", 96, 576, False),
    ("gpu", "float32", 128, 576, False),
    ("tpu", "bfloat16", 128, 576, False),
    ("cpu", "bfloat16", 128, 576, False),
  ],
)
def test_a_kernel_is_taken_where_it_takes_such_caches(
  monkeypatch, platform, dtype, width, room, taken
):
  monkeypatch.setattr(sharding, "platform", lambda: platform)
  q = jnp.zeros((1, 1, 1, 1, 1, width), dtype)
  k = jnp.zeros((1, 1, 1, room, width), dtype)
  assert (token_attention._kernel(q, k) is not None) == taken
  # Of caches in eight bits there is none.
  assert token_attention._kernel(q, int8.vectors(k)) is None


@pytest.mark.parametrize(
  ("platform", "parts", "branches"),
  [("cpu", False, True), ("tpu", True, True), ("gpu", True, False)],
)
def test_what_a_platform_reads(monkeypatch, platform, parts, branches):
  monkeypatch.setattr(sharding, "platform", lambda: platform)
  assert token_attention.reads_parts() == parts
  assert token_attention.shares_branches() == branches
