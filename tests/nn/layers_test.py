"""Small layers against Flax's and torch's."""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from genrec_jax.analysis import hlo, hlo_collectives, hlo_walk
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.nn import attention, encoder, layers
from tests import rounding

X = jax.random.normal(jax.random.key(0), (2, 3, 5, 7)) * 3 + 1


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_dense_layer(bias):
  dense = nn.Dense(4, use_bias=bias)
  variables = jax.tree.map(lambda x: x + 0.5, dense.init(jax.random.key(1), X))
  linear = layers.Linear(4, "float32", bias)
  assert jax.tree.structure(linear.init(jax.random.key(1), X)) == (
    jax.tree.structure(variables)
  )
  # Seven products and the bias.
  rounding.assert_close(
    linear.apply(variables, X), dense.apply(variables, X), terms=8
  )


@pytest.mark.parametrize("name", list(layers.ACTIVATIONS))
def test_activations_are_those_of_transformers(name):
  expected = ACT2FN[name](torch.tensor(np.asarray(X)))
  # Polynomials of a dozen terms.
  rounding.assert_close(layers.ACTIVATIONS[name](X), expected.numpy(), terms=12)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_group_norm_is_that_of_torch(offset):
  """Also where the mean is large: the variance is of two passes."""
  x = offset + jax.random.normal(jax.random.key(2), (2, 5, 3, 12))
  scale, bias = np.random.default_rng(0).normal(size=(2, 12)).astype("f")
  expected = torch.nn.functional.group_norm(
    torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).double(),
    4,
    *(torch.tensor(p).double() for p in (scale, bias)),
    1e-6,
  )
  ours = layers.GroupNorm(4, 1e-6, "float32")
  params = {"params": {"scale": scale, "bias": bias}}
  np.testing.assert_allclose(
    ours.apply(params, x),
    expected.permute(0, 2, 3, 1),
    atol=1e-5 if offset == 0 else 3e-4,  # float32 has 3e-5 at 300
  )


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (layers.RMSNorm(1e-3, "float32"), LlamaRMSNorm(7, eps=1e-3)),
    (layers.layer_norm(1e-3, "float32", "n"), torch.nn.LayerNorm(7, eps=1e-3)),
  ],
)
def test_norms_are_those_of_torch(ours, theirs):
  scale = np.linspace(0.5, 2, 7, dtype=np.float32)
  params = {"scale": scale}
  with torch.no_grad():
    theirs.weight.copy_(torch.tensor(scale))
    if hasattr(theirs, "bias"):
      theirs.bias.copy_(torch.tensor(scale))
      params["bias"] = scale
    # A large mean, where E[x^2] - E[x]^2 would cancel.
    x = X + 1000
    expected = theirs.double()(torch.tensor(np.asarray(x)).double()).numpy()
  found = ours.apply({"params": params}, x)
  # What is taken off is a mean of seven numbers of 1000, then divided by the
  # deviation and scaled.
  centred = "bias" in params
  scale = 1000 * scale.max() / np.std(X, -1).min() if centred else None
  rounding.assert_close(found, expected, terms=7, scale=scale)


def stack(remat):
  block = encoder.MLP(11, "silu", "float32")
  params = layers.init_stack(block, jax.random.key(0), 3, X)

  def loss(params):
    def step(x, layer):
      x = x + block.apply({"params": layer}, x)
      return x, x.mean()

    x, means = layers.scan_stack(step, X, params, remat)
    return jnp.sum(x**2) + jnp.sum(means)

  return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat):
  # Three layers of 7 and 11 products, there and back, over 30 rows.
  rounding.assert_close(
    stack("none"), stack(remat), terms=2 * 3 * (7 + 11) + 30
  )


def test_dots_keeps_what_attention_returns(monkeypatch):
  # In several blocks: XLA computes those of one only once anyway.
  monkeypatch.setattr(attention, "_BLOCK", 2)

  def count(remat):
    def loss(kernels):
      def step(x, kernel):
        rows = (x @ kernel)[:, None, None]
        out = attention.attend(rows[:, :, :, None], rows, rows)
        return out[:, 0, 0, 0] @ kernel, None

      return jnp.sum(layers.scan_stack(step, X[0], kernels, remat)[0])

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((2, 7, 7))).compile()
    return compiled.as_text().count(" dot(")

  # Spared are the product before it, and its own two.
  assert count("full") - count("dots") == 3


def test_an_unknown_remat_is_refused():
  with pytest.raises(ValueError, match=r"'half'.*none, full, dots"):
    stack("half")


@pytest.mark.parametrize("remat", layers.REMAT_POLICIES)
def test_a_split_stack_is_gathered_layer_by_layer(remat):
  depth, width, parts = 16, 64, 8
  mesh = mesh_lib.make_mesh(data=parts, model=1)
  spec = PartitionSpec(None, "data", "model")
  rules = ((r"proj/kernel", spec),)
  split = jax.NamedSharding(mesh, spec)
  dense = layers.Linear(width, "float32", False)

  def loss(stack, x, rules=rules):
    def step(x, layer):
      return jnp.tanh(layers.apply(dense, layer["proj"], x)), None

    return jnp.sum(layers.scan_stack(step, x, stack, remat, rules)[0] ** 2)

  rng = np.random.default_rng(0)
  kernels = rng.normal(size=(depth, width, width)).astype("float32") / 8
  stack, x = {"proj": {"kernel": kernels}}, np.ones((parts, width), "float32")
  expected = jax.jit(jax.grad(loss))(stack, x)
  on_mesh = jax.jit(
    sharding.trace_with_mesh(mesh, jax.grad(loss)),
    in_shardings=({"proj": {"kernel": split}}, None),
    out_shardings={"proj": {"kernel": split}},
  )
  found = on_mesh(stack, x)
  np.testing.assert_allclose(
    found["proj"]["kernel"], expected["proj"]["kernel"], atol=1e-5
  )
  compiled = on_mesh.lower(stack, x).compile()
  program = hlo.parse(compiled.as_text())
  moved = [x for x in hlo_collectives.find(program) if x.kind == "all-gather"]
  # Forwards and backwards each layer once, and never all of them at once.
  assert {x.times for x in moved if x.nbytes == kernels[0].nbytes} == {depth}
  assert all(x.nbytes <= kernels[0].nbytes for x in moved)
  # Neither are they kept from the one for the other.
  carried = [x for loop in hlo_walk.loops(program) for x in loop.carried]
  assert max(x.nbytes for x in carried) < kernels.nbytes
