import dataclasses

import jax
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core.errors import UserError


def test_a_mesh_takes_all_devices():
  def sizes(*args, **options):
    return tuple(mesh_lib.make_mesh(*args, **options).shape.values())

  assert mesh_lib.make_mesh().axis_names == ("slice", "data", "model")
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
    mesh_lib.make_mesh(data, model, slices)


def test_a_slice_keeps_its_devices_together():
  mesh = mesh_lib.make_mesh(slices=2)
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
  monkeypatch.setattr(mesh_lib, "Mesh", lambda grid, *_, **__: grid)
  return mesh_lib.make_mesh(**options)


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
    mesh_lib.make_mesh(slices=slices, devices=pod(found))
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
  mesh = mesh_lib.make_mesh(model=2)
  mesh_lib.check_batch(mesh, batch_size=8)
  with pytest.raises(UserError) as error:
    mesh_lib.check_batch(mesh, batch_size=6, other=4, third=0)
  assert "batch_size=6, third=0; " in str(error.value)
  assert "multiple of 4" in str(error.value)
  mesh = mesh_lib.make_mesh(slices=2, model=2)
  mesh_lib.check_batch(mesh, 2, batch_size=8)
  with pytest.raises(UserError, match="in 2 microbatches: use a multiple of 8"):
    mesh_lib.check_batch(mesh, 2, batch_size=12)
