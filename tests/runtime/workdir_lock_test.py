import os
import subprocess
import sys
import threading
import time

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


def test_waiting_ends_with_the_run_that_has_the_lock(tmp_path, capsys):
  workdir_lock.wait(str(tmp_path / "absent"))
  folder, freed = str(tmp_path), []

  def hold():
    with workdir_lock.locked(folder):
      held.set()
      time.sleep(1.5)
      freed.append(True)

  held = threading.Event()
  other = threading.Thread(target=hold)
  other.start()
  held.wait()
  workdir_lock.wait(folder)
  assert freed
  other.join()
  assert capsys.readouterr().out.count("waiting for it") == 1
