"""The store of encoded images: the same, however many processes made it."""

import pytest

from genrec_jax.ingest import image_files, image_store, statistics
from tests.ingest import dirty


def test_losses_to_the_centre_square_are_counted():
  sizes = [(30, 30), (30, 30), (20, 30), (30, 20), (19, 20), (1, 4)]
  counts = statistics.crop_losses(iter(sizes))
  # 1/3 twice, 1/20 and 3/4 of their pixels.
  assert counts == {
    "images": 6,
    "cropped": 4,
    "mean_share": pytest.approx((2 / 3 + 1 / 20 + 3 / 4) / 6),
    "shares": {"up to 10%": 1, "up to 25%": 0, "up to 50%": 2, "up to 100%": 1},
  }
  assert statistics.crop_losses([])["mean_share"] == 0


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
