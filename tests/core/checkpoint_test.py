import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax.core import checkpoint, sharding
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import TrainState


def iterator():
  data = grain.MapDataset.range(10).shuffle(seed=1).repeat()
  return iter(data.batch(3).to_iter_dataset())


def make_state(value, layout=None):
  params = {
    "a": {"kernel": jnp.full((8, 4), value)},
    "b": jnp.full((3,), value, jnp.bfloat16),
  }
  state = TrainState(jnp.int32(7), params, optax.adam(1e-3).init(params))
  return state if layout is None else jax.device_put(state, layout)


def layout(mesh):
  specs = {"a": {"kernel": jax.P("data", "model")}, "b": jax.P()}
  return sharding.shardings(mesh, sharding.like(specs, make_state(0.0)))


def test_restores_state_and_iterator_on_any_mesh(tmp_path):
  place, data = layout(sharding.make_mesh(data=4, model=2)), iterator()
  next(data)
  state = make_state(1.5, place)
  expected = jax.device_get(state)
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, state, data)
  following = next(data)
  for sizes in ((8, 1), (2, 4)):
    other = layout(sharding.make_mesh(*sizes))
    template, again = make_state(0.0, other), iterator()
    with checkpoint.open_manager(str(tmp_path), 1) as manager:
      restored = checkpoint.restore(manager, template, again)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    assert jax.tree.map(lambda x: x.sharding, restored) == other
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    assert template.params["b"].is_deleted()
    np.testing.assert_array_equal(next(again), following)


def test_reads_trained_parameters_without_their_mesh_or_optimizer(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 16)
  place = layout(sharding.make_mesh(data=4, model=2))
  state = make_state(1.5, place)
  kernel = jnp.arange(32.0).reshape(8, 4)
  state.params["a"]["kernel"] = jax.device_put(
    kernel, place.params["a"]["kernel"]
  )
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, state, iterator())
  params = checkpoint.open_params(str(tmp_path))
  assert params["b"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(params["b"][...], np.full(3, 1.5))
  saved = params["a"]["kernel"]
  assert (saved.shape, saved.dtype) == ((8, 4), np.float32)
  np.testing.assert_array_equal(saved[...], kernel)
  part = saved.read((slice(3, 7), slice(1, 4)), jnp.bfloat16)
  assert part.dtype == jnp.bfloat16
  np.testing.assert_array_equal(part, kernel[3:7, 1:4])


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
  assert checkpoint.latest_step(str(tmp_path)) is None
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    state = make_state(0.0)
    assert checkpoint.restore(manager, state, iterator()) is None
  assert not state.params["b"].is_deleted()
  with pytest.raises(UserError, match="holds no checkpoint"):
    checkpoint.open_params(str(tmp_path))


def test_refuses_other_parameters_by_name(tmp_path):
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, make_state(0.0), iterator())
    manager.wait_until_finished()
    state = make_state(0.0)
    params = state.params | {"b": jnp.zeros(4), "c": jnp.zeros(1)}
    with pytest.raises(UserError) as error:
      checkpoint.restore(manager, state.replace(params=params), iterator())
  assert "b: expected float32[4], found bfloat16[3]" in str(error.value)
  assert "missing c: expected float32[1]" in str(error.value)
  assert not state.params["b"].is_deleted()
