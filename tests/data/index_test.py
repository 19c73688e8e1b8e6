import functools
import pickle

import numpy as np
import pytest

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import index
from genrec_jax.data import stream as stream_lib
from tests.data.tiny_data import SPEC, assert_equal, take


def test_an_index_in_files_serves_as_one_from_records(
  dataset, processor, clip_tokenizer, stream, tmp_path
):
  known = dataset.index
  lengths = np.diff(known.history_starts)
  half = int(known.history_starts[20])
  titles = [known.title(row) for row in range(len(dataset.items))]
  index.write(
    tmp_path,
    [
      (lengths[:20], known.splits[:20], known.item_rows[:half]),
      (lengths[20:], known.splits[20:], known.item_rows[half:]),
    ],
    [titles[:1000], [], titles[1000:]],
  )
  read = index.read(tmp_path)
  for name in (
    *("history_starts", "item_rows", "splits", "title_starts", "title_bytes"),
  ):
    np.testing.assert_array_equal(getattr(read, name), getattr(known, name))
  assert read.title(1234) == titles[1234]
  again = pickle.loads(pickle.dumps(read))
  assert again.folder == str(tmp_path)
  assert len(pickle.dumps(read)) < 500  # the name of the folder

  class Unread:
    """Users whose records nobody may read."""

  mapped = dataset_lib.Dataset("mapped", dataset.items, Unread(), {})
  mapped.__dict__["index"] = read
  stream_of = functools.partial(
    stream_lib.train_batches,
    processor=processor,
    clip_tokenizer=clip_tokenizer,
    spec=SPEC,
    batch_size=8,
    seed=0,
  )
  assert_equal(take(iter(stream_of(mapped)), 3), take(iter(stream()), 3))

  for name in ("rows.bin", "splits.bin", "starts.bin", "titles.bin"):
    file = tmp_path / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-12])  # one user's splits, three rows
    with pytest.raises(ValueError, match=r"cut|size"):
      index.read(tmp_path)
    file.write_bytes(whole)
