"""The images folder: nothing outside it is opened."""

import pytest

from genrec_jax.data import images
from genrec_jax.ingest import image_files
from tests.ingest import dirty


def test_nothing_outside_the_folder_is_opened(tmp_path):
  folder = tmp_path / "images"
  dirty.write_images(folder)
  found = {file.path: file.problem for file in image_files.listing(folder)}
  assert found["link.jpg"] == found["linked"] == "symbolic_link"
  assert found["pipe.jpg"] == "not_a_regular_file"
  assert not any(path.startswith("linked/") for path in found)
  assert found["more/0012345.png"] == ""
  assert list(found) == sorted(found)
  # What has become a link or a pipe since it was listed.
  for path in ("link.jpg", "pipe.jpg", "more", "absent.jpg"):
    with pytest.raises(images.Unusable, match="unreadable_file"):
      image_files.encode_file(folder, path, 64)
    assert image_files.num_pixels(folder, path) == 0
