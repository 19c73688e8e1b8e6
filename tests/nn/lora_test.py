"""Adapters beside kernels: what they add, where they lie, how they start."""

import functools

import jax
from jax import P
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import sampling
from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.models import janus
from genrec_jax.nn import layers, lora
from genrec_jax.sampling import Sampling
from genrec_jax.testing import random_batch, tiny_janus
from tests import rounding
from tests.rounding import score_bound

MODEL = tiny_janus()
SHAPES = jax.eval_shape(MODEL.init, jax.random.key(0))
TRAINABLE = ("^language/", "^image_head/")


@functools.cache
def adapters(rank=3):
  kernels = lora.kernels(SHAPES, TRAINABLE, MODEL.adaptable)
  return lora.init(jax.random.key(5), kernels, rank)


def test_a_linear_layer_adds_them():
  x, w, a, b = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(2, 3, 7), (7, 5), (7, 2), (2, 5)])
  )
  params = {"kernel": w, lora.A: a, lora.B: b}
  linear = layers.Linear(5, "float32", use_bias=False)
  # Sums over 7, 2 and 5 values.
  scale = (jnp.abs(x) @ (jnp.abs(w) + 2 * jnp.abs(a) @ jnp.abs(b))).max()
  rounding.assert_close(
    linear.apply({"params": params}, x),
    x @ (w + 2 * a @ b),
    terms=14,
    scale=scale,
  )
  assert layers.Linear(5, "bfloat16", False).apply(
    {"params": params}, x
  ).dtype == jnp.dtype("bfloat16")


def test_each_kernel_of_a_layer_has_a_pair():
  flat = tree.flatten(adapters())
  assert len(flat) == 2 * 7
  shapes = tree.flatten(SHAPES)
  for path, value in flat.items():
    layers_, width, features = shapes[lora.sibling(path, "kernel")].shape
    assert value.dtype == jnp.float32
    if path.endswith(lora.B):
      assert value.shape == (layers_, 3, features)
      assert not value.any()
    else:
      assert value.shape == (layers_, width, 3)
      assert 0.5 < value.std() * width**0.5 < 1.5, path
  a = flat["language/layers/self_attn/k_proj/lora_a"]
  assert (a[0] != a[1]).all()
  assert (a != flat["language/layers/self_attn/v_proj/lora_a"]).all()


def test_of_what_is_named_only_such_kernels_have_them():
  found = lora.kernels(SHAPES, ("self_attn/q_proj", "head"), MODEL.adaptable)
  assert list(tree.flatten(found)) == [
    "language/layers/self_attn/q_proj/kernel"
  ]
  with pytest.raises(UserError, match="names no kernel that can have LoRA"):
    lora.kernels(SHAPES, ("^vision/", "^image_head/"), MODEL.adaptable)
  with pytest.raises(UserError, match="'nothing' matches no parameter"):
    lora.kernels(SHAPES, ("nothing",), MODEL.adaptable)


@pytest.mark.parametrize("rank", [-1, 20])
def test_a_rank_that_saves_nothing_is_refused(rank):
  with pytest.raises(UserError) as caught:
    adapters(rank)
  assert f"model.lora_rank={rank}" in str(caught.value)
  assert "language/layers/self_attn/k_proj/kernel[2, 24, 20]" in str(
    caught.value
  )


def test_they_lie_as_their_kernels_do():
  kernels = lora.kernels(
    sharding.specs(janus.RULES, SHAPES), TRAINABLE, MODEL.adaptable
  )
  found = lora.specs(kernels)
  assert jax.tree.structure(found) == jax.tree.structure(adapters())
  layer = found["language"]["layers"]
  assert layer["self_attn"]["q_proj"] == {
    lora.A: P(None, "data", None),
    lora.B: P(None, None, "model"),
  }
  assert layer["mlp"]["down_proj"] == {
    lora.A: P(None, "model", None),
    lora.B: P(None, None, "data"),
  }
  assert lora.specs({"fc1": {"kernel": P()}})["fc1"][lora.A] == P(
    None, None, None
  )


@pytest.fixture(scope="module")
def outputs():
  """Returns what a model computes, all of it, as a function of params."""
  batch = random_batch(2)

  @functools.partial(jax.jit, static_argnames="dtype")
  def compute(params, dtype):
    model = MODEL.with_compute(dtype=dtype, remat="full")
    embeds = model.embed(params, batch.prompt)
    options = {"guidance": 2.0}
    rollout = sampling.sample_images(
      model,
      params,
      batch.prompt,
      jax.random.key(3),
      Sampling(num_samples=2, **options),
    )
    return {
      "prefix": model.prefill(params, embeds, batch.prompt.mask),
      "rollout": rollout,
      "scores": sampling.score_images(
        model, params, batch.prompt, rollout.codes, Sampling(**options)
      ),
    }

  return compute


@pytest.fixture(scope="module")
def params():
  """Returns random values of numpy: compiling an `init` takes a minute."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    if path.endswith("scale"):
      return 1 + 0.1 * noise
    return noise * 1.5 * (leaf.shape[-2] if leaf.ndim > 1 else 16) ** -0.5

  flat = tree.flatten(SHAPES)
  return tree.unflatten({path: draw(path, leaf) for path, leaf in flat.items()})


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_the_start_they_change_no_bit(params, outputs, dtype):
  base = outputs(params, dtype)
  jax.tree.map(
    np.testing.assert_array_equal,
    base,
    outputs(tree.merge(params, adapters()), dtype),
  )


def test_unmerged_equals_merged(params, outputs):
  """Also in the decode loop, whose codes are then scored as they were drawn."""
  keys = iter(jax.random.split(jax.random.key(7), 14))
  beside = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), adapters()
  )
  merged = tree.flatten(params)
  for path, a in tree.flatten(beside).items():
    if path.endswith(lora.A):
      b = tree.flatten(beside)[lora.sibling(path, lora.B)]
      merged[lora.sibling(path, "kernel")] += 2 * a @ b
  found = outputs(tree.merge(params, beside), "float32")
  expected = outputs(tree.unflatten(merged), "float32")
  assert (
    jnp.abs(
      expected["scores"][0] - outputs(params, "float32")["scores"][0]
    ).max()
    > 0.01
  )
  # A merged kernel is rounded once more; codes are whole numbers and the same.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=score_bound(b, guidance=2.0)
    ),
    found,
    expected,
  )
  scores = found["scores"][0]
  np.testing.assert_allclose(
    scores,
    found["rollout"].logprobs,
    rtol=0,
    atol=score_bound(scores, guidance=2.0),
  )
