import dataclasses
import shutil
import types

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import TrainState
from genrec_jax.runtime import checkpoint, saved_params
from genrec_jax.runtime import workdir as workdir_lib


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
  return sharding.shardings(
    mesh, sharding.specs_like_params(specs, make_state(0.0))
  )


def test_restores_state_and_iterator_on_any_mesh(tmp_path):
  place, data = layout(mesh_lib.make_mesh(data=4, model=2)), iterator()
  next(data)
  state = make_state(1.5, place)
  expected = jax.device_get(state)
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, state, data)
  following = next(data)
  for sizes in ((8, 1), (2, 4)):
    other = layout(mesh_lib.make_mesh(*sizes))
    template, again = make_state(0.0, other), iterator()
    with checkpoint.open_manager(str(tmp_path), 1) as manager:
      restored = checkpoint.restore(manager, template, again)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    assert jax.tree.map(lambda x: x.sharding, restored) == other
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    assert template.params["b"].is_deleted()
    np.testing.assert_array_equal(next(again), following)


def test_an_average_is_what_readers_get_and_training_goes_on_behind_it(
  tmp_path,
):
  def given(value):
    state = make_state(value)
    return dataclasses.replace(
      state,
      ema=jax.tree.map(lambda x: x + 1, state.params),
      reference=jax.tree.map(lambda x: x + 2, state.params),
    )

  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, given(1.5), iterator())
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    restored = checkpoint.restore(manager, given(0.0), iterator())
  jax.tree.map(np.testing.assert_array_equal, restored, given(1.5))
  params = saved_params.open_params(str(tmp_path))
  np.testing.assert_array_equal(params["b"][...], np.full(3, 2.5))


def test_reads_trained_parameters_without_their_mesh_or_optimizer(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 16)
  place = layout(mesh_lib.make_mesh(data=4, model=2))
  state = make_state(1.5, place)
  kernel = jnp.arange(32.0).reshape(8, 4)
  state.params["a"]["kernel"] = jax.device_put(
    kernel, place.params["a"]["kernel"]
  )
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    checkpoint.save(manager, state, iterator())
  params = saved_params.open_params(str(tmp_path))
  assert params["b"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(params["b"][...], np.full(3, 1.5))
  saved = params["a"]["kernel"]
  assert (saved.shape, saved.dtype) == ((8, 4), np.float32)
  np.testing.assert_array_equal(saved[...], kernel)
  part = saved.read((slice(3, 7), slice(1, 4)), jnp.bfloat16)
  assert part.dtype == jnp.bfloat16
  np.testing.assert_array_equal(part, kernel[3:7, 1:4])


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
  assert workdir_lib.newest_step(str(tmp_path)) is None
  with checkpoint.open_manager(str(tmp_path), 1) as manager:
    state = make_state(0.0)
    assert checkpoint.restore(manager, state, iterator()) is None
  assert not state.params["b"].is_deleted()
  with pytest.raises(UserError, match="holds no checkpoint"):
    saved_params.open_params(str(tmp_path))


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


def noisy(value):
  """Returns a state with a parameter that fills a file of its own."""
  state = make_state(value)
  noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
  return state.replace(params=state.params | {"noise": jnp.asarray(noise)})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """A workdir with two whole checkpoints, of steps 7 and 8."""
  folder = tmp_path_factory.mktemp("two")
  with checkpoint.open_manager(str(folder), 2) as manager:
    for step in (7, 8):
      state = noisy(1.5).replace(step=jnp.int32(step))
      checkpoint.save(manager, state, iterator())
  return folder


def largest(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def empty(path):
  path.write_bytes(b"")


DAMAGES = {
  "params": lambda folder: empty(largest(folder / "params/ocdbt.process_0/d")),
  "gone": lambda folder: largest(folder / "params/ocdbt.process_0/d").unlink(),
  "cut": lambda folder: largest(
    folder / "params/ocdbt.process_0/d"
  ).write_bytes(b"x" * 9),
  "manifest": lambda folder: empty(folder / "params/manifest.ocdbt"),
  "metadata": lambda folder: (folder / "params/_METADATA").unlink(),
  "optimizer": lambda folder: shutil.rmtree(folder / "optimizer"),
  "data": lambda folder: empty(folder / "data/metadata"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_whole_one_before(
  two, tmp_path, damage
):
  workdir = tmp_path / "run"
  shutil.copytree(two, workdir)
  newest, before = (workdir / "checkpoints" / step for step in "87")
  DAMAGES[damage](newest)
  with (
    pytest.raises(UserError) as error,
    checkpoint.open_manager(str(workdir), 2) as manager,
  ):
    checkpoint.restore(manager, noisy(0.0), iterator())
  message = str(error.value)
  assert "\n" not in message
  assert message.startswith(f"checkpoint {newest} is damaged (")
  assert f"{before}, the last whole one" in message
  # As it says.
  shutil.rmtree(newest)
  with checkpoint.open_manager(str(workdir), 2) as manager:
    state = checkpoint.restore(manager, noisy(0.0), iterator())
  assert state.step == 7


def test_readers_name_a_damaged_checkpoint_too(two, tmp_path):
  for damage, other in (("params", "gone"), ("metadata", "manifest")):
    workdir = tmp_path / damage
    shutil.copytree(two, workdir)
    newest = workdir / "checkpoints" / "8"
    DAMAGES[damage](newest)
    # The one before is no better.
    DAMAGES[other](workdir / "checkpoints" / "7")
    with pytest.raises(UserError) as error:
      saved_params.open_params(str(workdir))["noise"].read(
        (slice(None), slice(None)), np.float32
      )
    message = str(error.value)
    assert message.startswith(f"checkpoint {newest} is damaged (")
    assert "no whole one before it: put back a copy" in message


def test_a_save_that_fails_is_one_line(two, tmp_path, monkeypatch):
  shutil.copytree(two, tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"

  def full(self):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing ...\nmore")

  with checkpoint.open_manager(str(tmp_path / "run"), 2) as manager:
    monkeypatch.setattr(type(manager), "check_for_errors", full)
    with pytest.raises(UserError) as error:
      checkpoint.check_saving(manager)
    monkeypatch.undo()
  message = str(error.value)
  assert message.startswith(
    f"cannot save a checkpoint in {folder} (the disk is"
  )
  assert f"the last whole one is {folder}/8" in message
  assert "\n" not in message


def test_only_what_a_failed_save_leaves_goes_unreported():
  passed = []
  for error in (RuntimeError("Event loop is closed"), RuntimeError("another")):
    unraisable = types.SimpleNamespace(exc_value=error)
    checkpoint._report(passed.append, unraisable)
  assert [str(one.exc_value) for one in passed] == ["another"]
