import dataclasses

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

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


def test_a_mesh_takes_all_devices():
  def sizes(*args, **options):
    return tuple(sharding.make_mesh(*args, **options).shape.values())

  assert sharding.make_mesh().axis_names == ("slice", "data", "model")
  assert sizes() == (1, 8, 1)
  assert sizes(model=2) == (1, 4, 2)
  assert sizes(model=2, slices=2) == (2, 2, 2)
  assert sizes(devices=jax.devices()[:1]) == (1, 1, 1)


@pytest.mark.parametrize(
  ("data", "model", "slices"),
  [(3, 1, 1), (-1, 3, 1), (-1, 0, 1), (0, 8, 1), (-1, 1, 3), (4, 2, 2)],
)
def test_a_mesh_that_does_not_fit_is_refused(data, model, slices):
  with pytest.raises(UserError, match=r"not fit 8 device.*mesh.data=-1"):
    sharding.make_mesh(data, model, slices)


def test_a_slice_keeps_its_devices_together():
  mesh = sharding.make_mesh(slices=2)
  ids = [[d.id for d in row.flat] for row in mesh.devices]
  assert ids == [[0, 1, 2, 3], [4, 5, 6, 7]]


@dataclasses.dataclass(frozen=True, order=True)
class Chip:
  """What JAX says of a chip, as far as a mesh asks."""

  id: int
  slice_index: int
  coords: tuple[int, int, int] = (0, 0, 0)
  platform: str = "tpu"
  device_kind: str = "TPU v6 lite"
  core_on_chip: int = 0
  process_index: int = 0


def pod(slices, width=4):
  """Returns slices of `width` x `width` chips, the last slice first."""
  return [
    Chip(100 * i + width * y + x, i, (x, y, 0))
    for i in reversed(range(slices))
    for y in range(width)
    for x in range(width)
  ]


def layout(monkeypatch, **options):
  """Returns the mesh's chips; the mesh itself takes real devices only."""
  monkeypatch.setattr(sharding, "Mesh", lambda grid, *_, **__: grid)
  return sharding.make_mesh(**options)


def test_tpu_slices_are_the_axis_over_slices(monkeypatch):
  for slices in (1, 2):
    grid = layout(monkeypatch, slices=slices, model=2, devices=pod(slices))
    assert grid.shape == (slices, 8, 2)
    for index, part in enumerate(grid):
      assert {chip.slice_index for chip in part.flat} == {index}
    assert len(set(grid.flat)) == grid.size
  # Halves of one slice are as good.
  assert layout(monkeypatch, slices=2, devices=pod(1)).shape == (2, 8, 1)


@pytest.mark.parametrize(("slices", "found"), [(1, 2), (2, 4), (4, 2)])
def test_another_number_of_tpu_slices_is_refused(slices, found):
  with pytest.raises(UserError) as error:
    sharding.make_mesh(slices=slices, devices=pod(found))
  assert f"mesh.slices={slices}, but the {16 * found} TPU" in str(error.value)
  assert f"set mesh.slices={found}" in str(error.value)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_machines_with_gpus_make_any_number_of_slices(monkeypatch, slices):
  machines = [
    dataclasses.replace(chip, platform="gpu", device_kind="H100")
    for chip in pod(4, width=2)
  ]
  grid = layout(monkeypatch, slices=slices, devices=machines)
  assert grid.shape == (slices, 16 // slices, 1)
  assert list(grid.flat) == sorted(machines)


def test_batches_that_devices_do_not_divide_are_refused_at_once():
  mesh = sharding.make_mesh(model=2)
  sharding.check_batch(mesh, batch_size=8)
  with pytest.raises(UserError) as error:
    sharding.check_batch(mesh, batch_size=6, other=4, third=0)
  assert "batch_size=6, third=0; " in str(error.value)
  assert "multiple of 4" in str(error.value)
  mesh = sharding.make_mesh(slices=2, model=2)
  sharding.check_batch(mesh, 2, batch_size=8)
  with pytest.raises(UserError, match="in 2 microbatches: use a multiple of 8"):
    sharding.check_batch(mesh, 2, batch_size=12)


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
  mesh = sharding.make_mesh(data=4, model=2)
  placed = sharding.shard_params(
    mesh, sharding.specs(RULES, params()), params()
  )
  kernel = placed["layers"]["up"]["kernel"]
  assert kernel.sharding.shard_shape(kernel.shape) == (2, 2, 8)
  np.testing.assert_array_equal(kernel, params()["layers"]["up"]["kernel"])


def test_parameters_that_the_mesh_does_not_divide_are_listed():
  mesh = sharding.make_mesh(data=4, model=2)
  tree = params(width=5)
  with pytest.raises(UserError) as error:
    sharding.shard_params(mesh, sharding.specs(RULES, tree), tree)
  assert "layers/up/kernel[2, 8, 5]: 5 % 2 != 0" in str(error.value)
  assert "layers/up/bias[2, 5]: 5 % 2 != 0" in str(error.value)


def test_batches_are_split_over_data():
  mesh = sharding.make_mesh(data=4, model=2)
  rows = np.arange(16).reshape(8, 2)
  batch = sharding.put_batch(mesh, {"rows": rows})["rows"]
  assert batch.sharding.shard_shape(batch.shape) == (2, 2)
  np.testing.assert_array_equal(batch, rows)
