import io

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals import baselines


def test_copy_last_takes_the_newest_real_item(batches):
  batch, _ = next(batches(known=True))
  found = baselines.copy_last(batch)
  np.testing.assert_array_equal(found[0], batch.history[0, 2])
  np.testing.assert_array_equal(found[1:], batch.history[1:, -1])


def test_last_index_of_nothing_is_the_first():
  mask = np.asarray([[False, False], [True, False], [False, True]])
  np.testing.assert_array_equal(baselines.last_index(mask), [0, 0, 1])


def test_real_next_item(batches):
  batch, _ = next(batches(known=True))
  found = baselines.real_next_item(batch)
  np.testing.assert_array_equal(found, batch.future[:, 0])


def test_random_items_are_seeded_and_spread_over_the_catalogue():
  catalogue = [np.full((2, 2, 3), i, np.uint8) for i in range(50)]
  found = baselines.random_items(catalogue, 40, 5, seed=0)
  assert found.shape == (40, 5, 2, 2, 3)
  again = baselines.random_items(catalogue, 40, 5, seed=0)
  np.testing.assert_array_equal(found, again)
  assert len(np.unique(found)) > 40


def test_catalogue_decodes_pictures_when_asked():
  png = io.BytesIO()
  Image.new("RGBA", (3, 2), (7, 8, 9, 255)).save(png, "PNG")
  pictures = baselines.Catalogue([{"image": png.getvalue()}] * 4, np.asarray)
  assert len(pictures) == 4
  assert pictures[3].shape == (2, 3, 3)
  assert pictures[0][0, 0].tolist() == [7, 8, 9]


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nno"])
def test_catalogue_names_an_item_without_a_picture(image):
  pictures = baselines.Catalogue([{"id": b"i7", "image": image}], np.asarray)
  with pytest.raises(UserError, match=r"item 'i7' cannot be decoded"):
    pictures[0]
