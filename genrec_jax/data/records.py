"""Records of a prepared data set: features, writing and reading."""

from collections.abc import Mapping
import io
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from genrec_jax.core.errors import UserError
from genrec_jax.data import images
from genrec_jax.data.histories import History, Splits

PARTS = ("items", "users")  # TFDS data sets in a prepared one


def features(part: str) -> dict[str, Any]:
  """Returns the TFDS features that each record of a part has."""
  if part == "items":
    return {
      "id": tfds.features.Text(),
      "title": tfds.features.Text(),
      "image": tfds.features.Image(shape=(None, None, 3)),
    }
  return {
    "id": tfds.features.Text(),
    "items": tfds.features.Sequence(tfds.features.Text()),  # L ids
    # Positions of the items in the other part, so that reading an image takes
    # no search for its id.
    "rows": tfds.features.Tensor(shape=(None,), dtype=np.int64),
    "timestamps": tfds.features.Tensor(shape=(None,), dtype=np.int64),
    **dict.fromkeys(Splits._fields, np.int64),
  }


def user_record(history: History, item_rows: np.ndarray) -> dict[str, Any]:
  """Returns a record of the users part.

  Args:
    history: of the user.
    item_rows: positions of its items in the items part, [L] int64.
  """
  return {
    "id": history.user,
    "items": list(history.items),
    "rows": item_rows,
    "timestamps": history.timestamps,
    **history.splits._asdict(),
  }


def to_history(record: Mapping[str, Any]) -> History:
  """Returns the history in a record of the users part."""
  return History(
    record["id"].decode(),
    tuple(item.decode() for item in record["items"]),
    np.asarray(record["timestamps"]),
    Splits(*(int(record[name]) for name in Splits._fields)),
  )


def decode_image(record: Mapping[str, Any]) -> Image.Image:
  """Returns the image in a record of the items part, upright and RGB.

  Raises:
    UserError: names the item whose bytes are no image.
  """
  try:
    return images.upright(Image.open(io.BytesIO(record["image"])))
  except Exception as error:  # Pillow raises many kinds
    raise UserError(
      f"The image of item {record['id'].decode()!r} cannot be decoded: "
      f"{error}. Expected PNG or JPEG; prepare the data set again."
    ) from error
