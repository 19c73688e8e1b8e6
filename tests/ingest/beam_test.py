import filecmp
import functools
import pathlib
import sys

import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset
from genrec_jax.ingest import beam, image_store, tfds_builder

DIRECT = "--runner=FnApiRunner"  # within this process


def test_without_beam_the_error_says_what_to_do(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(UserError, match=r"Install .* without Beam"):
    beam.parse(DIRECT)


@pytest.mark.parametrize("flags", ["--runner=NoRunner", "--runner='"])
def test_flags_that_beam_does_not_know(flags):
  pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
  with pytest.raises(UserError, match=r"--beam=.*Expected flags of Apache"):
    beam.parse(flags)


def test_beam_writes_what_one_machine_does(make_work, tmp_path, monkeypatch):
  pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
  monkeypatch.setattr(image_store, "CHUNK", 7)
  monkeypatch.setattr(tfds_builder, "_SHARD_BYTES", 6000)
  options = beam.parse(DIRECT)
  work = make_work(tmp_path, (9, 3))
  raw_images, here = tmp_path / "raw_images", work.folder / "images"
  (raw_images / "003.png").write_bytes(b"")
  names = [(f"{item:03d}", f"{item:03d}.png") for item in range(40)]
  there = tmp_path / "there"
  spread = functools.partial(beam.spread, **options)
  image_store.encode_all(
    raw_images, names[:10], there, 32, 1
  )  # stopped after that
  (there / "000001.json").unlink()
  store = image_store.encode_all(raw_images, names, there, 32, 1, spread)
  assert store.unusable.keys() == {"003"}
  assert len(store) == 39
  local = image_store.encode_all(raw_images, names, tmp_path / "local", 32, 1)
  assert dict(store) == dict(local)
  files = [path.name for path in there.iterdir()]
  assert len(files) == 12  # and not the list of chunks
  same, *_ = filecmp.cmpfiles(there, tmp_path / "local", files, shallow=False)
  assert len(same) == 12
  assert here.exists()

  paths = [
    pathlib.Path(tfds_builder.store("generic", work, tmp_path / name, **kwargs))
    for name, kwargs in (("one", {}), ("many", options))
  ]
  shards = sorted(paths[0].glob("*/items/*/*.array_record*"))
  assert len(shards) > 2
  for shard in shards:
    other = paths[1] / shard.relative_to(paths[0])
    assert shard.read_bytes() == other.read_bytes()
  one, many = map(dataset.load, paths)
  files = [sorted(path.rglob("*.*")) for path in paths]
  assert [f.relative_to(paths[0]) for f in files[0]] == [
    f.relative_to(paths[1]) for f in files[1]
  ]
  for row in range(40):
    np.testing.assert_equal(one.items[row], many.items[row])
