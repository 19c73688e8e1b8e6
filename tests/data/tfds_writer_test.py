import filecmp
import os
import pathlib
import subprocess
import sys
import textwrap

from genrec_jax.data import synthetic

SMALL = {
  "num_users": 30,
  "held_out": 10,
  "num_events": 12,
  "future_horizon": 2,
}


def _files(root):
  root = pathlib.Path(root)
  return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())


def test_rebuilding_gives_the_same_bytes(dataset, tmp_path):
  again = synthetic.build(tmp_path / "again", **SMALL)
  files = _files(again)
  assert files == _files(dataset.path)
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
