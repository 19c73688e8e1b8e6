"""Liveness of processes: a failure of one ends the others with a message.

Left alone the others would wait for it for ever, in a collective.
"""

from collections.abc import Callable
import contextlib
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import jax
from jax._src import distributed as jax_distributed  # no public key-value store

from genrec_jax.core.errors import UserError, one_line
from genrec_jax.runtime.distributed import RESUME, index, is_first

# How long processes wait for the last one to start.
START_SECONDS = 300

# Keys of the store that JAX's coordinator, in process 0, keeps for all.
_FAILED, _PORT = "genrec_jax/failed", "genrec_jax/port"
_WATCH_MS = 24 * 3600 * 1000  # of one wait; it is repeated
_CONNECT_SECONDS = 10
_SECRET_BYTES = 16
_FIRST_KILLED = "process 0 was killed"
# How long the process that passes messages on outlives what it passes on.
_LINGER_SECONDS = 3
# How the loss of another process reads, from gloo, NCCL or JAX's coordinator.
_LOST = re.compile(
  "gloo|nccl|connection|heartbeat|coordination|unavailable|peer", re.IGNORECASE
)


_leaving = threading.Event()  # set: a lost connection is no failure
_ending = threading.Lock()  # never released: one thread ends the process


def _client() -> Any:
  return jax_distributed.global_state.client


def watch() -> None:
  """Ends this process from now on when another one fails or is lost."""
  _in_background(_watch)
  if jax.process_count() > 1:
    _open_liveness_sockets()


def leave() -> None:
  """Marks the end of the run: a connection may close without a failure."""
  _leaving.set()


def _in_background(function: Callable[..., None], *args: Any) -> None:
  threading.Thread(target=function, args=args, daemon=True).start()


def _watch() -> None:
  """Ends this process when another publishes a failure or is lost."""
  client = _client()
  while not _leaving.is_set():
    try:
      message = client.blocking_key_value_get(_FAILED, _WATCH_MS)
      if _leaving.is_set():
        return
      _end(message)
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" in str(error):  # of `_WATCH_MS`; wait again
        continue
      if not _leaving.is_set():
        _end(_peer_lost_message(_coordinator_lost(error)))
      return


def _coordinator_lost(error: Exception) -> str:
  """Returns why the coordinator, which process 0 holds, does not answer."""
  # gRPC's words depend on whether bytes were under way when the socket closed.
  closed = ("Socket closed", "Connection reset by peer")
  killed = any(words in str(error) for words in closed)
  return _FIRST_KILLED if killed else one_line(error)


def _open_liveness_sockets() -> None:
  """Detects a dead peer at once: its TCP connection closes with it.

  JAX would notice after `launch.HEARTBEAT_SECONDS` of silence. Each process
  holds one connection to process 0 and shows a secret that only joined
  processes know. Where a firewall forbids the connection, JAX's heartbeat
  remains.
  """
  client = _client()
  if is_first():
    server = socket.create_server(("", 0), backlog=jax.process_count())
    secret = secrets.token_bytes(_SECRET_BYTES)
    port = server.getsockname()[1]
    client.key_value_set(_PORT, f"{port} {secret.hex()}")
    _in_background(
      _accept, server, secret, jax.process_count(), _report_dead_peer
    )
    return
  found = client.blocking_key_value_get(_PORT, 1000 * START_SECONDS)
  port, secret = found.split()
  address = jax_distributed.global_state.coordinator_address
  assert address is not None  # set by `jax.distributed.initialize`
  host = address.rsplit(":", 1)[0]
  with contextlib.suppress(OSError):  # a firewall: see above
    peer = socket.create_connection(
      (host.strip("[]"), int(port)), _CONNECT_SECONDS
    )
    peer.settimeout(None)  # it is to stay open for hours without a word
    peer.sendall(bytes.fromhex(secret) + index().to_bytes(4, "big"))
    _in_background(_watch_first, peer)


def _accept(
  server: socket.socket,
  secret: bytes,
  count: int,
  report_dead: Callable[[int], None],
) -> None:
  while True:
    try:
      peer, _ = server.accept()
    except OSError:  # too many connections: closing would end all processes
      time.sleep(1)
    else:
      _in_background(_watch_peer, peer, secret, count, report_dead)


def _watch_peer(
  peer: socket.socket,
  secret: bytes,
  count: int,
  report_dead: Callable[[int], None],
) -> None:
  """Calls `report_dead` with a peer's index when its connection closes."""
  with peer, contextlib.suppress(OSError):
    # A connection that says nothing is not waited for without end.
    peer.settimeout(START_SECONDS)
    greeting = peer.makefile("rb").read(len(secret) + 4)
    who = int.from_bytes(greeting[-4:], "big")
    # In constant time; a peer's word can end the run.
    known = secrets.compare_digest(greeting[:-4], secret)
    if not known or not 0 < who < count:  # 0 is this process
      return  # no process of this run: a port scanner, for example
    peer.settimeout(None)
    with contextlib.suppress(OSError):  # reset, as good as closed
      peer.recv(1)
    report_dead(who)


def _report_dead_peer(who: int) -> None:
  """Reports to the other processes that one was killed."""
  if not _leaving.is_set():
    _publish_failure(_peer_lost_message(f"process {who} was killed"))


def _watch_first(peer: socket.socket) -> None:
  """Ends this process when its connection to process 0 closes."""
  with peer, contextlib.suppress(OSError):
    peer.recv(1)
  if not _leaving.is_set():
    _end(_peer_lost_message(_FIRST_KILLED))


def _publish_failure(message: str) -> None:
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was faster
    _client().key_value_set(_FAILED, message)


def fail(error: BaseException) -> NoReturn:
  """Ends this process and those that would wait for it."""
  if isinstance(error, UserError):  # no traceback: the user can mend it
    message = str(error)
  elif isinstance(error, KeyboardInterrupt):
    message = "interrupted"
  elif isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(
    str(error)
  ):
    time.sleep(_LINGER_SECONDS)  # if it is known why, `_watch` says so
    message = _peer_lost_message(one_line(error))
  else:
    traceback.print_exception(error)
    message = f"{type(error).__name__}: {one_line(error)}"
  _leaving.set()
  _finish_running()
  _publish_failure(f"process {index()} ended: {message}")
  _end(message)


def _finish_running() -> None:
  """Waits, not for long, for what this process has dispatched.

  The others are in the same step. If its messages broke off in the middle, the
  next step's would be taken for its own, at which gloo aborts the process.
  """
  arrays = jax.live_arrays()
  waiting = threading.Thread(
    target=lambda: _block_until_ready(arrays), daemon=True
  )
  waiting.start()
  waiting.join(_LINGER_SECONDS)  # a step that waits for a lost peer never ends


def _block_until_ready(arrays: list[jax.Array]) -> None:
  # Those of a step that failed raise; why is known by now.
  with contextlib.suppress(jax.errors.JaxRuntimeError, RuntimeError):
    jax.block_until_ready(arrays)


def _end(message: str) -> NoReturn:
  _ending.acquire()  # the first thread to come here says why
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.stdout.flush()
  if is_first():  # its end closes the store, and with it the message
    time.sleep(_LINGER_SECONDS)
  # Leaving in any other way waits for processes that wait for this one.
  os._exit(1)


def _peer_lost_message(reason: str) -> str:
  return (
    f"another process of this run has ended ({reason}); its own output, or its"
    f" machine, says why. When that is put right, {RESUME}"
  )
