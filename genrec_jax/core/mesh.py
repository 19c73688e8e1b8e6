"""The device mesh of a run, and the batch sizes that fit it."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
import numpy as np

from genrec_jax.core.errors import UserError

# A slice is what fast links join: parameters are split within it and repeated
# over slices, so that only gradients travel between them.
AXES = ("slice", "data", "model")


def make_mesh(
  data: int = -1,
  model: int = 1,
  slices: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Returns a mesh with axes ('slice', 'data', 'model') over the devices.

  Args:
    data: size of the axis over examples and FSDP shards; -1 takes what the
      others leave.
    model: size of the axis over tensor-parallel shards.
    slices: size of the axis over slices, which share examples only.
    devices: all devices if None.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or `slices`
      is not the number of TPU slices.
  """
  devices = list(devices or jax.devices())
  # max: a size below 1 is reported below, not divided by here.
  rest = max(model * slices, 0)
  size = len(devices) // rest if data == -1 and rest else data
  if min(size, model, slices) < 1 or size * rest != len(devices):
    raise UserError(
      f"mesh.slices={slices} x mesh.data={data} x mesh.model={model} does not"
      f" fit {len(devices)} device(s): their product must be the number of"
      " devices; set mesh.data=-1 to take what the others leave"
    )
  grid = _grid((slices, size, model), devices)
  # Auto: XLA places what no constraint does; the code says where it must.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(shape: tuple[int, int, int], devices: list[Any]) -> np.ndarray:
  """Lays devices out so that those of a slice are neighbours."""

  def slice_of(device: Any) -> int:
    return getattr(device, "slice_index", 0)

  if devices[0].platform != "tpu":
    # JAX calls each machine a slice (and names none where there is one only),
    # but any number of machines may share parameters.
    devices = sorted(devices, key=lambda d: (slice_of(d), d.id))
    return np.asarray(devices).reshape(shape)
  slices, *within = shape
  found = len({slice_of(device) for device in devices})
  # An axis of the torus is split over two of the mesh where nothing else fits.
  # Any number of `slices` may be cut from one: its links are all fast.
  if found == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  if found != slices:
    raise UserError(
      f"mesh.slices={slices}, but the {len(devices)} TPU devices belong to"
      f" {found} slices: parameters are split within a slice; set"
      f" mesh.slices={found}"
    )
  # Within each slice neighbours on the torus stay neighbours on the mesh.
  return mesh_utils.create_hybrid_device_mesh(
    (1, *within), (slices, 1, 1), devices, allow_split_physical_axes=True
  )


def check_batch(mesh: Mesh, parts: int = 1, **sizes: int) -> None:
  """Checks that the mesh divides batch sizes.

  Args:
    mesh: batches are split over its axes 'slice' and 'data'.
    parts: equal parts that each batch is split into before.
    **sizes: by name, say `batch_size=6`.

  Raises:
    UserError: names each size that does not fit.
  """
  shards = mesh.shape["slice"] * mesh.shape["data"]
  step = shards * parts
  problems = [f"{k}={v}" for k, v in sizes.items() if v < 1 or v % step]
  if problems:
    among = f" in {parts} microbatches" if parts > 1 else ""
    raise UserError(
      f"batch not divisible by devices: {', '.join(problems)}; the mesh splits"
      f" a batch over {shards} device(s){among}: use a multiple of {step}, or"
      " fewer devices"
    )
