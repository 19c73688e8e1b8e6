import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import TrainState

RULES = (
  (r"layers/\w+/kernel", P(None, "data", "model")),
  (r"layers/\w+/bias", P(None, "model")),
  (r"scale", P()),
)


def params(width=16):
  return {
    "layers": {
      "up": {"kernel": np.ones((2, 8, width)), "bias": np.ones((2, width))},
    },
    "scale": np.ones(3),
  }


def test_each_leaf_gets_its_rule():
  specs = sharding.specs(RULES, params())
  assert specs == {
    "layers": {
      "up": {"kernel": P(None, "data", "model"), "bias": P(None, "model")}
    },
    "scale": P(),
  }


def test_rules_are_strict():
  rules = (
    *RULES,
    (r"scale|other", P("data", "model")),
    (r"unused", P()),
    (r"cale", P()),
  )
  tree = params() | {"free": np.ones(1), "other": np.ones(3)}
  with pytest.raises(ValueError, match="exactly one") as error:
    sharding.specs(rules, tree)
  lines = [line.strip() for line in str(error.value).splitlines()[1:]]
  assert lines == [
    "scale matches 'scale' and 'scale|other'",
    "free matches no rule",
    f"other: {P('data', 'model')} is too long for (3,)",
    "rule 'unused' matches nothing",
    "rule 'cale' matches nothing",
  ]


def test_a_train_state_follows_its_parameters():
  specs = sharding.specs(RULES, params())
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  state = TrainState(np.int32(0), params(), optimizer.init(params()))
  laid = sharding.specs_like_params(specs, state)
  assert laid.step == P()
  assert laid.params == specs
  assert laid.opt_state[1][0].mu == specs
  assert laid.opt_state[1][0].nu == specs
  assert laid.opt_state[1][0].count == P()
  assert jax.tree.structure(laid) == jax.tree.structure(state)


def test_without_gathers_one_axis():
  tree = {"a": P(None, "data", "model"), "b": P(("data", "model")), "c": P()}
  assert sharding.drop_axis("data", tree) == {
    "a": P(None, None, "model"),
    "b": P(("model",)),
    "c": P(),
  }


def test_placed_parameters_are_split():
  mesh = mesh_lib.make_mesh(data=4, model=2)
  placed = sharding.shard_params(
    mesh, sharding.specs(RULES, params()), params()
  )
  kernel = placed["layers"]["up"]["kernel"]
  assert kernel.sharding.shard_shape(kernel.shape) == (2, 2, 8)
  np.testing.assert_array_equal(kernel, params()["layers"]["up"]["kernel"])


def test_parameters_that_the_mesh_does_not_divide_are_listed():
  mesh = mesh_lib.make_mesh(data=4, model=2)
  tree = params(width=5)
  with pytest.raises(UserError) as error:
    sharding.shard_params(mesh, sharding.specs(RULES, tree), tree)
  assert "layers/up/kernel[2, 8, 5]: 5 % 2 != 0" in str(error.value)
  assert "layers/up/bias[2, 5]: 5 % 2 != 0" in str(error.value)


def test_batches_are_split_over_data():
  mesh = mesh_lib.make_mesh(data=4, model=2)
  rows = np.arange(16).reshape(8, 2)
  batch = sharding.put_batch(mesh, {"rows": rows})["rows"]
  assert batch.sharding.shard_shape(batch.shape) == (2, 2)
  np.testing.assert_array_equal(batch, rows)


def test_a_layer_is_gathered_along_data_alone():
  mesh = mesh_lib.make_mesh(data=4, model=2)
  rules = ((r"proj/kernel", P(None, "data", "model")), (r"norm/scale", P()))
  layer = {
    "proj": {"kernel": np.ones((8, 4), np.float32)},
    "norm": {"scale": np.ones(4, np.float32)},
    "other": {"kernel": np.ones((8, 4), np.float32)},  # that no rule fits
  }
  split = jax.NamedSharding(mesh, P("data", "model"))
  layer["proj"]["kernel"] = jax.device_put(layer["proj"]["kernel"], split)
  gather = sharding.trace_with_mesh(
    mesh, lambda layer: sharding.gathered(rules, layer, "bfloat16")
  )
  found = jax.jit(gather)(layer)
  kernel = found["proj"]["kernel"]
  assert kernel.dtype == "bfloat16"
  assert kernel.sharding.is_equivalent_to(
    jax.NamedSharding(mesh, P(None, "model")), 2
  )
  assert found["norm"]["scale"].dtype == "float32"
  assert found["other"]["kernel"].dtype == "float32"

  # Of the gradient each device has the part that it trains.
  def loss(kernel):
    whole = gather({"proj": {"kernel": kernel}})["proj"]["kernel"]
    return (whole.astype("float32") ** 2).sum() / 2

  slopes = sharding.trace_with_mesh(mesh, jax.grad(loss))
  found = jax.jit(slopes)(layer["proj"]["kernel"])
  assert found.sharding.is_equivalent_to(split, 2)
  np.testing.assert_array_equal(found, layer["proj"]["kernel"])
