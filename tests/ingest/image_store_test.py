"""The store of encoded images: the same, however many processes made it."""

import io

from PIL import Image
import pytest

from genrec_jax.ingest import image_files, image_store
from tests.ingest import dirty


def test_processes_change_nothing(tmp_path, monkeypatch):
  folder = tmp_path / "images"
  dirty.write_images(folder)
  monkeypatch.setattr(image_store, "CHUNK", 5)
  items = [
    (f.path, f.path) for f in image_files.listing(folder) if not f.problem
  ]
  one = image_store.encode_all(folder, items, tmp_path / "one", 16, 1)
  two = image_store.encode_all(folder, items, tmp_path / "two", 16, 2)
  assert dict(one) == dict(two)
  for item, size in one.sizes():
    assert Image.open(io.BytesIO(one[item])).size == size
  assert one.unusable == two.unusable
  assert len(one) + len(one.unusable) == len(items)
  assert {reason for reason, _ in one.unusable.values()} == {
    *dirty.BAD_IMAGES.values()
  }
  for absent in ("", "g0", "zzz", *one.unusable):
    with pytest.raises(KeyError):
      one[absent]
  with pytest.raises(KeyError):
    image_store.Store(tmp_path)["g0.jpg"]
