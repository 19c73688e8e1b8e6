import filecmp
import os
import subprocess
import sys
import textwrap

from genrec_jax.data import synthetic
from tests.data.small_world import SMALL, files_of


def test_rebuilding_gives_the_same_bytes(dataset, tmp_path):
  again = synthetic.build(tmp_path / "again", **SMALL)
  files = files_of(again)
  assert files == files_of(dataset.path)
  assert len(files) == 9
  _, different, errors = filecmp.cmpfiles(
    again, dataset.path, files, shallow=False
  )
  assert (different, errors) == ([], [])
  other = synthetic.build(tmp_path / "other", **SMALL, seed=1)
  assert filecmp.cmpfiles(other, dataset.path, files, shallow=False)[1]


def test_building_and_reading_never_import_tensorflow(dataset, tmp_path):
  code = f"""
    import sys
    from genrec_jax.data import dataset as dataset_lib
    from genrec_jax.data import stream, synthetic
    path = synthetic.build({os.fspath(tmp_path / "data")!r}, **{SMALL!r})
    dataset = dataset_lib.load(path)
    dataset.index
    dataset.items[0]
    assert not {{"tensorflow", "torch"}} & set(sys.modules)
  """
  run = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout == ""  # TFDS would report a download
