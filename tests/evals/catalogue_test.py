import io

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals.catalogue import DatasetCatalogue


def test_catalogue_decodes_images_when_asked():
  png = io.BytesIO()
  Image.new("RGBA", (3, 2), (7, 8, 9, 255)).save(png, "PNG")
  images = DatasetCatalogue([{"image": png.getvalue()}] * 4, np.asarray)
  assert len(images) == 4
  assert images[3].shape == (2, 3, 3)
  assert images[0][0, 0].tolist() == [7, 8, 9]


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nno"])
def test_catalogue_names_an_item_without_an_image(image):
  images = DatasetCatalogue([{"id": b"i7", "image": image}], np.asarray)
  with pytest.raises(UserError, match=r"item 'i7' cannot be decoded"):
    images[0]
