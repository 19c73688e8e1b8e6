"""Start and end of a run of several processes.

A process that fails ends the others; see `runtime.liveness`.
"""

from collections.abc import Iterator, Mapping
import contextlib
import glob
import importlib.util
import os
import re
import signal
from typing import Any, NamedTuple

import jax
from jax._src import distributed as jax_distributed  # no public key-value store

from genrec_jax.core.errors import UserError, one_line
from genrec_jax.runtime import liveness
from genrec_jax.runtime.distributed import is_single_process
from genrec_jax.runtime.liveness import START_SECONDS

# How long a machine may be silent until the others give it up, as JAX does by
# default. A process that ends, in whatever way, is missed at once.
HEARTBEAT_SECONDS = 100


class Address(NamedTuple):
  """The place of a process in its run."""

  coordinator: str  # host:port at which process 0 is found by all
  num_processes: int
  process_id: int


def parse(spec: str) -> Address | None:
  """Reads 'HOST:PORT,NUM,ID'; None for 'auto' and 'off'.

  Raises:
    UserError: it is none of these.
  """
  if spec in ("auto", "off"):
    return None
  # The host may be an IPv6 address in brackets, with colons of its own.
  found = re.fullmatch(r"([^,]+:\d+),(\d+),(\d+)", spec)
  address = found and Address(found[1], int(found[2]), int(found[3]))
  if not address or address.process_id >= address.num_processes:
    raise UserError(
      f"--distributed={spec}: expected auto, off or HOST:PORT,NUM,ID, where"
      " process 0 listens, how many there are, and which this is, from 0"
    )
  return address


def launched(environ: Mapping[str, str] = os.environ) -> str:
  """Returns the variable by which a launcher announces processes, or ''."""
  several = (
    "SLURM_STEP_NUM_TASKS",  # not in a batch script, which is one process
    "OMPI_COMM_WORLD_SIZE",
    "MEGASCALE_NUM_SLICES",
  )
  for name in several:
    # A variable that is set but empty says nothing.
    if int(environ.get(name) or 1) > 1:
      return f"{name}={environ[name]}"
  for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):  # GKE
    if "," in environ.get(name, ""):
      return f"{name}={environ[name]}"
  return ""


def start(spec: str, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> None:
  """Joins the other processes of this run, if there are any.

  Must come before anything that asks JAX for devices.

  Args:
    spec: 'auto' joins what SLURM, Open MPI, GKE or a TPU VM says there is;
      'off' runs alone; else see `parse`.
    heartbeat_seconds: see `HEARTBEAT_SECONDS`.

  Raises:
    UserError: the others cannot be found or do not come.
  """
  # A launcher that started several processes means one run, not many alone:
  # if they cannot join, that is an error.
  address, reason = parse(spec), launched()
  if spec == "off" or not (address or reason or _on_tpu_vm()):
    return
  places: dict[str, Any] = {}
  if address:
    places = {
      "coordinator_address": address.coordinator,
      "num_processes": address.num_processes,
      "process_id": address.process_id,
      # Else one GPU a process under SLURM and Open MPI: here, all it sees.
      "cluster_detection_method": "deactivate",
    }
  # Else JAX takes SIGTERM now, and nobody asks it until the first step is done.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **places,
      heartbeat_timeout_seconds=heartbeat_seconds,
      initialization_timeout=START_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    # A machine with TPU chips that belongs to no cluster is alone.
    if isinstance(error, ValueError) and not (address or reason):
      return
    raise UserError(
      f"cannot join the other processes ({one_line(error)}), which"
      f" {reason or f'--distributed={spec}'} promises: expected all of them to"
      f" be started within {START_SECONDS} s and to reach process 0; say where"
      " it is with --distributed=HOST:PORT,NUM,ID, or run one process alone"
      " with --distributed=off"
    ) from error
  liveness.watch()


@contextlib.contextmanager
def joined(spec: str) -> Iterator[None]:
  """Runs its body as one of the processes of a run; see `start`.

  If it raises in one of several processes, that one prints why and ends, and
  the others end as well, whatever they wait for. The exit status is 1.
  """
  start(spec)
  try:
    yield
  except BaseException as error:
    if is_single_process():
      raise
    liveness.fail(error)  # does not return
  liveness.leave()
  jax.distributed.shutdown()


@contextlib.contextmanager
def deferring_sigterm() -> Iterator[None]:
  """Defers SIGTERM to `multihost_utils.reached_preemption_sync_point`.

  That returns True in all processes once one of them got it. Before and after
  the body, and in a run of one process, it ends who gets it at once.
  """
  state = jax_distributed.global_state
  if state.client is None:
    yield
    return
  jax.config.update("jax_enable_preemption_service", True)
  state.initialize_preemption_sync_manager()
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_tpu_vm() -> bool:
  chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
  return bool(chips) and importlib.util.find_spec("libtpu") is not None
