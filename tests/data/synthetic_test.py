import io
import time

import numpy as np
from PIL import Image

from genrec_jax.data import records, synthetic, world, world_users
from tests.data.small_world import SMALL


def test_items_are_renders_with_titles(dataset):
  assert len(dataset.items) == world.NUM_ITEMS
  record = dataset.items[1234]
  assert record["id"] == b"1234"
  assert record["title"].decode() == world.title(record["attributes"])
  np.testing.assert_array_equal(record["attributes"], world.attributes(1234))
  image = np.asarray(Image.open(io.BytesIO(record["image"])))
  np.testing.assert_array_equal(image, world.render(record["attributes"]))


def test_users_are_the_simulated_ones(dataset):
  events = world_users.simulate(40, 12, seed=0)
  assert len(dataset.users) == 40
  for row in range(40):
    record = dataset.users[row]
    history = records.to_history(record)
    assert history.user == f"u{row:06d}"
    assert history.splits == (8 if row < 30 else 0, 8, 10)
    assert [int(item) for item in history.items] == record["rows"].tolist()
    # Ties are ordered by item id, and what was wanted moves along.
    order = np.lexsort((events.items[row], events.timestamps[row]))
    np.testing.assert_array_equal(record["rows"], events.items[row][order])
    np.testing.assert_array_equal(record["wants"], events.wants[row][order])
    np.testing.assert_array_equal(
      record["timestamps"], events.timestamps[row][order]
    )


def test_no_path_opens_the_synthetic_data_set(dataset, tmp_path):
  assert synthetic.open_or_build(dataset.path, cache=tmp_path).path == (
    dataset.path
  )
  assert not list(tmp_path.iterdir())
  for _ in range(2):
    opened = synthetic.open_or_build("", cache=tmp_path, **SMALL)
    assert opened.settings == dataset.settings
  assert len(list(tmp_path.iterdir())) == 1
  other = synthetic.open_or_build("", cache=tmp_path, **SMALL, seed=1)
  assert other.path != opened.path


def test_building_is_quick(tmp_path):
  start = time.process_time()
  synthetic.build(tmp_path / "large", num_users=2000)
  assert time.process_time() - start < 20
