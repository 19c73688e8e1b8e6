"""Words for lost processes; the rest in tests/distributed_test.py."""

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
