import os
import subprocess
import sys

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import workdir_lock

HOLD = """
import sys, time
from genrec_jax.runtime import workdir_lock
with workdir_lock.locked(sys.argv[1]):
  print("held", flush=True)
  time.sleep(600)
"""


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
  folder = str(tmp_path)
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
  ) as other:
    try:
      assert other.stdout.readline() == "held\n"
      with (
        pytest.raises(UserError, match=f"in use by another.*{other.pid} on"),
        workdir_lock.locked(folder),
      ):
        pass
    finally:
      other.kill()
  with workdir_lock.locked(folder):
    assert os.listdir(folder) == [".lock"]
    with pytest.raises(UserError, match="in use"), workdir_lock.locked(folder):
      pass
  assert os.listdir(folder) == []
