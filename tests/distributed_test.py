"""Two processes of four devices each, over loopback, against one of eight.

Run as a program this file is one of the processes of a toy run:
python -m tests.distributed_test WORKDIR HOST:PORT,NUM,ID JSON
"""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import (
  cli,
  distributed,
  launch,
  liveness,
  metric_writer,
)
from genrec_jax.runtime import saved_params as saved_params_lib
from genrec_jax.runtime import workdir as workdir_lib
from tests.train import toy

ROOT = pathlib.Path(__file__).parents[1]


class Stumbling:
  """The toy's iterator, for the rows of this process, with its misfortunes."""

  def __init__(self, rows, *, pause=0.0, hang=None, end=None):
    self._batches, self._rows = toy.batches(), rows
    self._pause, self._hang, self._end = pause, hang, end
    self.get_state = self._batches.get_state
    self.set_state = self._batches.set_state

  def __next__(self):
    here = [distributed.index(), self.get_state()["next_index"]]
    time.sleep(1000 if here == self._hang else self._pause)
    if here == self._end:
      raise StopIteration
    return {k: v[self._rows] for k, v in next(self._batches).items()}


def program(workdir, spec, misfortunes):
  cli.quieten()
  with cli.user_errors(), launch.joined(spec):
    mesh = mesh_lib.make_mesh()
    rows = distributed.local_rows(jax.NamedSharding(mesh, sharding.BATCH), 8)
    iterator = Stumbling(rows, **json.loads(misfortunes))
    toy.run(workdir, toy.make_inputs(mesh, iterator=iterator))


def start(folder, name, number, *command):
  """Starts processes of four devices that are told where they belong."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  flags = os.environ["XLA_FLAGS"].replace(
    "device_count=8", f"device_count={8 // number}"
  )
  started = []
  for index in range(number):
    log = folder / f"{name}.{index}.log"
    with log.open("w") as file:
      process = subprocess.Popen(
        [
          sys.executable,
          *(
            part.replace("SPEC", f"{address},{number},{index}")
            for part in command
          ),
        ],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        stdout=file,
        stderr=subprocess.STDOUT,
      )
    started.append((process, log))
  return started


def start_toy(workdir, name, **misfortunes):
  return start(
    workdir.parent,
    name,
    2,
    "-m",
    "tests.distributed_test",
    str(workdir),
    "SPEC",
    json.dumps(misfortunes),
  )


def finish(started, timeout=120):
  """Waits for processes; returns their exit statuses and what they printed."""
  until = time.monotonic() + timeout
  try:
    for process, _ in started:
      process.wait(max(until - time.monotonic(), 0.1))
  finally:
    for process, _ in started:
      process.kill()
  statuses = [process.returncode for process, _ in started]
  return statuses, [log.read_text() for _, log in started]


def wait_for(path, started):
  until = time.monotonic() + 100
  while not path.exists():
    assert time.monotonic() < until
    for process, log in started:
      assert process.poll() is None, log.read_text()
    time.sleep(0.02)


def errors(outputs):
  return [
    [line for line in output.splitlines() if line.startswith("error: ")]
    for output in outputs
  ]


def rows_close(ours, theirs, tolerance):
  assert [row.keys() for row in ours] == [row.keys() for row in theirs]
  for one, other in zip(ours, theirs, strict=True):
    for name, value in one.items():
      # How far a ratio is from 1 before an update is rounding and nothing else,
      # and RL's loss there is those ratios' mean with weights that sum to 0.
      least = 1e-4 if name.startswith("ratio_") else 1e-6
      least = 5e-6 if name in ("loss", "policy_loss") else least
      expected = pytest.approx(other[name], rel=tolerance, abs=least)
      assert value == expected, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """An undisturbed toy run of one process."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  toy.run(workdir, toy.make_inputs(mesh_lib.make_mesh()))
  return workdir


def test_stopped_killed_and_resumed_processes_end_as_one_alone(tmp_path, alone):
  workdir = tmp_path / "run"
  checkpoints = workdir / "checkpoints"

  # The scheduler takes back one machine: all save and stop.
  started = start_toy(workdir, "stopped", pause=0.3)
  wait_for(checkpoints / "3", started)
  started[1][0].send_signal(signal.SIGTERM)
  statuses, outputs = finish(started)
  assert statuses == [1, 1], outputs
  saved = workdir_lib.newest_step(str(workdir))
  assert 3 < saved < 12
  for found in errors(outputs):
    assert f"SIGTERM): step {saved} of 12 is saved" in found[0]
  assert not [line for line in outputs[1].splitlines() if "step" in line[:5]]

  # A machine dies while the other waits for it.
  started = start_toy(workdir, "killed", hang=[1, 10])
  wait_for(checkpoints / "9", started)
  begun = time.monotonic()
  started[1][0].kill()
  statuses, outputs = finish(started)
  assert time.monotonic() - begun < 30
  assert statuses == [1, -signal.SIGKILL]
  assert f"resumed at step {saved} of 12" in outputs[0]
  assert "has ended (process 1 was killed)" in errors(outputs)[0][0]
  assert "same command: it resumes" in errors(outputs)[0][0]

  # One machine is left, with all devices.
  state = toy.run(workdir, toy.make_inputs(mesh_lib.make_mesh()))
  assert int(state.step) == 12
  rows_close(
    metric_writer.read(str(workdir)), metric_writer.read(str(alone)), 1e-5
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    saved_params(workdir),
    saved_params(alone),
  )
  assert len(list(workdir.glob("events.*"))) == 3  # one of each start
  assert not list(workdir.glob(".writable*"))


def saved_params(workdir):
  return jax.tree.map(
    lambda saved: saved[...], saved_params_lib.open_params(str(workdir))
  )


def test_an_error_in_one_ends_the_other_with_its_message(tmp_path):
  started = start_toy(tmp_path / "run", "ended", end=[1, 5])
  statuses, outputs = finish(started)
  assert statuses == [1, 1], outputs
  (theirs,), (own,) = errors(outputs)
  assert own.startswith("error: the data ended after 5 of 12 steps")
  assert theirs.startswith("error: process 1 ended: the data ended after 5 of")


def test_what_ends_the_first_before_its_first_step_ends_the_other(tmp_path):
  started = start_toy(tmp_path / "run", "loading", hang=[0, 0])
  wait_for(tmp_path / "run" / "config.json", started)
  begun = time.monotonic()
  started[0][0].send_signal(signal.SIGTERM)
  statuses, outputs = finish(started)
  assert time.monotonic() - begun < 30
  assert statuses[0] == -signal.SIGTERM
  if statuses[1] != -signal.SIGABRT:  # JAX may notice first
    assert statuses[1] == 1
    assert "has ended (process 0 was killed)" in errors(outputs)[1][0]
  assert not list((tmp_path / "run" / "checkpoints").glob("*"))  # or none yet


@pytest.mark.slow
def test_main_on_two_processes_is_main_on_one(tmp_path):
  compare(tmp_path, "sft")


@pytest.mark.slow
def test_rl_on_two_processes_is_rl_on_one(tmp_path):
  compare(tmp_path, "rl")


def compare(folder, task):
  """Runs main.py as one process and as two, on eight devices each."""
  found = []
  for number in (2, 1):
    workdir = folder / f"{task}{number}"
    started = start(
      folder,
      workdir.name,
      number,
      str(ROOT / "main.py"),
      f"--config={ROOT}/configs/{task}.py:debug",
      f"--workdir={workdir}",
      "--config.train.steps=2",
      "--config.sample.num_samples=2",
      *(["--distributed=SPEC"] if number > 1 else []),
    )
    statuses, outputs = finish(started, timeout=600)
    assert statuses == [0] * number, outputs[0][-3000:] + outputs[-1][-3000:]
    assert "real next item" in outputs[0]
    assert not [o for o in outputs[1:] if "step" in o or "real next" in o]
    assert len(list(workdir.glob("events.*"))) == 1
    found.append(
      (
        metric_writer.read(str(workdir)),
        json.loads((workdir / "summary.json").read_text()),
        sorted(path.name for path in (workdir / "samples").iterdir()),
      )
    )
  two, one = found
  rows_close(two[0], one[0], 1e-4)
  assert two[1]["models"].keys() == one[1]["models"].keys()
  assert two[2] == one[2]
  config = (folder / f"{task}2" / "config.json").read_text()
  assert (
    config.replace(f"{task}2", f"{task}1")
    == (folder / f"{task}1" / "config.json").read_text()
  )


@pytest.mark.parametrize("spec", ["on", "h:1,2", "h:1,2,2", "h,2,0", "h:x,2,0"])
def test_a_spec_that_cannot_be_is_refused(spec):
  with pytest.raises(UserError, match="expected auto, off or HOST:PORT,NUM,ID"):
    launch.parse(spec)


def test_reads_where_a_process_belongs():
  assert launch.parse("auto") is None
  assert launch.parse("[::1]:80,4,3") == ("[::1]:80", 4, 3)


@pytest.mark.parametrize(
  ("environ", "several"),
  [
    ({}, False),
    ({"SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"SLURM_NTASKS": "8"}, False),  # a batch script before its srun
    ({"SLURM_STEP_NUM_TASKS": ""}, False),
    ({"SLURM_STEP_NUM_TASKS": "8"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ({"TPU_WORKER_HOSTNAMES": "a"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
  ],
)
def test_launchers_are_found_by_their_environment(environ, several):
  assert bool(launch.launched(environ)) == several


def test_a_launcher_that_does_not_say_where_is_an_error(monkeypatch):
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
  monkeypatch.setattr(
    jax.distributed,
    "initialize",
    functools.partial(_raise, ValueError("coordinator_address should be")),
  )
  with pytest.raises(UserError, match=r"OMPI_COMM_WORLD_SIZE=2 promises"):
    launch.start("auto")


def _raise(error, **_):
  raise error


SECRET = bytes(range(liveness._SECRET_BYTES))


@pytest.mark.parametrize(
  ("said", "missed"),
  [
    (SECRET + b"\0\0\0\1", [1]),
    (SECRET + b"\0\0\0\3", [3]),
    (SECRET + b"\0\0\0\4", []),  # of four
    (SECRET + b"\0\0\0\0", []),  # that is who listens
    (SECRET[::-1] + b"\0\0\0\1", []),
    (SECRET + b"\0\0\1", []),
    (b"\0\0\0\1", []),
    (b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n", []),
    (b"", []),
  ],
)
def test_only_processes_of_the_run_are_missed(said, missed):
  ours, theirs = socket.socketpair()
  theirs.sendall(said)
  theirs.close()
  found = []
  liveness._watch_peer(ours, SECRET, 4, found.append)
  assert found == missed


def test_sigterm_is_deferred_where_steps_are_taken(monkeypatch):
  def take():
    signal.signal(signal.SIGTERM, lambda *_: None)

  before = signal.getsignal(signal.SIGTERM)
  state = types.SimpleNamespace(
    client=None, initialize_preemption_sync_manager=take
  )
  monkeypatch.setattr(launch.jax_distributed, "global_state", state)
  with launch.deferring_sigterm():  # alone
    assert signal.getsignal(signal.SIGTERM) == before
  state.client = object()
  try:
    with launch.deferring_sigterm():
      assert signal.getsignal(signal.SIGTERM) not in (before, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  finally:
    signal.signal(signal.SIGTERM, before)


@dataclasses.dataclass
class Seen:
  """A sharding as one of processes of neighbouring devices sees it."""

  whole: jax.NamedSharding
  process: int
  count: int

  def addressable_devices_indices_map(self, shape):
    places = self.whole.devices_indices_map(shape)
    each = len(places) // self.count
    return {d: i for d, i in places.items() if d.id // each == self.process}


@pytest.mark.parametrize(
  ("sizes", "rows"),
  [
    ({"data": 4, "model": 2}, [range(8)]),
    ({"data": 4, "model": 2}, [range(4), range(4, 8)]),
    # Two processes hold what tensor parallelism splits over them.
    ({"data": 2, "model": 4}, [range(4), range(4), range(4, 8), range(4, 8)]),
    # Slices take turns: see `sharding.BATCH`.
    (
      {"slices": 2, "data": 2, "model": 2},
      [[0, 1, 4, 5], [2, 3, 6, 7]],
    ),
  ],
)
def test_rows_are_those_of_the_devices_here(sizes, rows):
  place = jax.NamedSharding(mesh_lib.make_mesh(**sizes), sharding.BATCH)
  for process, expected in enumerate(rows):
    seen = Seen(place, process, len(rows))
    found = distributed.local_rows(seen, 8)
    np.testing.assert_array_equal(found, list(expected))


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    (["config 0.10.2"] * 3, None),
    (
      ["config 0.10.2", "config 0.10.2", "config 0.10.3"],
      "process 2: expected",
    ),
    (["config", "c0nfig", "conf1g"], "process 1, 2: expected the same command"),
    (["config", "other", "other"], "process 1, 2: "),
  ],
)
def test_what_must_be_the_same_everywhere_is(monkeypatch, texts, message):
  numbers = []

  def give(number):
    numbers.append(number)
    return [number]

  monkeypatch.setattr(distributed, "allgather_scalar", give)
  for text in texts:
    distributed.assert_same_everywhere("the config", text)
  together = numbers.copy()
  monkeypatch.setattr(distributed, "allgather_scalar", lambda _: together)
  for text in texts:  # all are told, for none may go on
    if message is None:
      distributed.assert_same_everywhere("the config", text)
      continue
    with pytest.raises(UserError, match=message) as error:
      distributed.assert_same_everywhere("the config", text)
    assert str(error.value).startswith("the config differs between process 0")


if __name__ == "__main__":
  program(*sys.argv[1:])
