import io

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories, records


def test_a_history_is_the_same_when_read_from_its_record():
  (history,) = histories.build([("u", "b", 2), ("u", "é", 1), ("u", "a", 3)])
  rows = np.asarray([5, 1, 0])
  record = records.user_record(history, rows)
  assert record["rows"] is rows
  # TFDS gives texts back as bytes.
  read = record | {
    "id": record["id"].encode(),
    "items": [item.encode() for item in record["items"]],
  }
  found = records.to_history(read)
  assert (found.user, found.items) == ("u", ("é", "b", "a"))
  assert found.splits == history.splits == (1, 1, 2)
  np.testing.assert_array_equal(found.timestamps, [1, 2, 3])
  assert record.keys() == records.features("users").keys()


def test_an_image_is_decoded_or_its_item_named():
  file = io.BytesIO()
  Image.new("L", (3, 2), 7).save(file, "PNG")
  image = records.decode_image({"id": b"9", "image": file.getvalue()})
  assert (image.mode, image.size) == ("RGB", (3, 2))
  with pytest.raises(UserError, match="image of item '9' cannot be decoded"):
    records.decode_image({"id": b"9", "image": file.getvalue()[:40]})
