"""Words for lost processes; the rest in tests/distributed_test.py."""

import threading
import time

import jax
import numpy as np
import pytest

from genrec_jax.runtime import liveness


@pytest.mark.parametrize(
  ("error", "message"),
  [
    ("UNAVAILABLE: Socket closed", "process 0 was killed"),
    ("UNAVAILABLE: recvmsg:Connection reset by peer", "process 0 was killed"),
    ("UNAVAILABLE: failed to connect", "UNAVAILABLE: failed to connect"),
  ],
)
def test_a_coordinator_that_is_gone_was_killed(error, message):
  assert liveness._coordinator_lost(RuntimeError(error)) == message


def test_what_a_failing_process_dispatched_is_waited_for(monkeypatch):
  monkeypatch.setattr(liveness, "_LINGER_SECONDS", 20)
  square = np.eye(512, dtype=np.float32)

  @jax.jit
  def long(x):
    return jax.lax.fori_loop(0, 200, lambda _, y: y @ x, x)

  long(square).block_until_ready()  # compiles
  result = long(square)
  assert not result.is_ready()
  liveness._finish_running()
  assert result.is_ready()


def test_a_step_that_waits_for_a_lost_process_is_not_waited_for(monkeypatch):
  monkeypatch.setattr(liveness, "_LINGER_SECONDS", 0.1)
  release = threading.Event()
  monkeypatch.setattr(liveness, "_block_until_ready", lambda _: release.wait())
  begun = time.monotonic()
  liveness._finish_running()
  release.set()
  assert time.monotonic() - begun < 5
