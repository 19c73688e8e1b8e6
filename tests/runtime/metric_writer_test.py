import json

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from genrec_jax.runtime import metric_writer


def test_rows_after_the_restored_step_are_dropped(tmp_path):
  writer = metric_writer.Writer(str(tmp_path), None)
  for step in (0, 2, 4, 6):
    writer.scalars(step, {"loss": step / 8})
  writer.close()
  writer = metric_writer.Writer(str(tmp_path), 4)
  writer.scalars(6, {"loss": 0.5})
  writer.close()
  assert metric_writer.read(str(tmp_path)) == [
    {"step": 0, "loss": 0.0},
    {"step": 2, "loss": 0.25},
    {"step": 4, "loss": 0.5},
    {"step": 6, "loss": 0.5},
  ]
  metric_writer.Writer(str(tmp_path), None).close()
  assert metric_writer.read(str(tmp_path)) == []


def test_a_folder_without_metrics_has_no_rows(tmp_path):
  assert metric_writer.read(str(tmp_path)) == []


def test_rows_are_json_even_where_a_value_is_not_finite(tmp_path):
  writer = metric_writer.Writer(str(tmp_path), None)
  writer.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 0.1})
  writer.close()

  def refuse(name):
    raise ValueError(name)

  text = (tmp_path / metric_writer.FILE).read_text()
  row = json.loads(text, parse_constant=refuse)
  assert row == {"step": 1, "a": None, "b": None, "c": 0.1}


def test_tensorboard_gets_scalars_timings_and_pictures(tmp_path):
  grid = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  writer = metric_writer.Writer(str(tmp_path), None)
  writer.scalars(3, {"loss": 0.5})
  writer.board(3, {"steps_per_second": 2.0})
  writer.image(3, grid)
  writer.close()
  [path] = tmp_path.glob("events.out.tfevents*")
  found = {}
  for event in events(path.read_bytes()):
    for value in event.summary.value:
      kind = value.WhichOneof("value")
      found[value.tag] = (event.step, kind, value.simple_value)
  assert found["loss"] == (3, "simple_value", 0.5)
  assert found["steps_per_second"] == (3, "simple_value", 2.0)
  assert found["samples"][:2] == (3, "image")
  with Image.open(tmp_path / "samples" / "000003.png") as image:
    np.testing.assert_array_equal(np.asarray(image), grid)
  rows = metric_writer.read(str(tmp_path))
  assert rows == [{"step": 3, "loss": 0.5}], "timings differ between runs"


def events(data):
  """Reads TensorBoard's records: length, its crc, an Event, its crc."""
  while data:
    size = int.from_bytes(data[:8], "little")
    yield Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]
