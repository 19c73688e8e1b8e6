"""The lock that keeps two runs from writing into one workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import socket
import time

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import distributed

_LOCK = ".lock"


class InUse(UserError):
  """Another run has the lock."""


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
  """Locks a workdir against other runs while its body runs.

  The lock is the system's (`flock`), so a killed process leaves none. Of
  several processes of a run the first holds it. Readers, such as an evaluation
  of this workdir's checkpoint in a workdir of its own, are not concerned.
  Between machines it holds where the file system passes locks on, as NFS with
  its lock service, Lustre with -o flock, CephFS and Filestore do; where it
  refuses to lock, as some mounted buckets do, this says so and goes on.

  Args:
    workdir: an existing folder that can be written.

  Raises:
    InUse: another run has the lock.
  """
  if not distributed.is_first():
    yield
    return
  path = os.path.join(workdir, _LOCK)
  file = _take_lock(workdir, path)
  try:
    yield
  finally:
    if file is not None:
      # While it is held: who opens the path from here on makes a new file.
      with contextlib.suppress(OSError):
        os.remove(path)
      os.close(file)


def wait(workdir: str) -> None:
  """Waits until no run has the lock of a workdir, which may be absent."""
  said = False
  while os.path.isdir(workdir):
    try:
      with locked(workdir):
        return
    except InUse as error:
      if not said:
        distributed.say(f"{error}; waiting for it")
      said = True
      time.sleep(1)


def _take_lock(workdir: str, path: str) -> int | None:
  while True:
    # Some network disks lock only what is open for writing.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      with contextlib.suppress(FileNotFoundError):
        # Whoever had it may have removed the file meanwhile.
        if os.path.samestat(os.fstat(file), os.stat(path)):
          os.ftruncate(file, 0)  # for the message of a run that is refused
          os.write(file, f"{os.getpid()} on {socket.gethostname()}".encode())
          return file
      os.close(file)  # it was another's; the path leads to a new one
    except OSError as error:
      holder = os.read(file, 300).decode(errors="replace")
      os.close(file)
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        distributed.say(
          f"{workdir} is on a disk that cannot be locked ({error.strerror}):"
          " see that no other run writes into it"
        )
        return None
      raise InUse(
        f"workdir {workdir} is in use by another run (process {holder}): wait"
        " for it, stop it, or give another --workdir"
      ) from None
