import json

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from genrec_jax.runtime import metrics


def test_rows_after_the_restored_step_are_dropped(tmp_path):
  writer = metrics.Writer(str(tmp_path), None)
  for step in (0, 2, 4, 6):
    writer.scalars(step, {"loss": step / 8})
  writer.close()
  writer = metrics.Writer(str(tmp_path), 4)
  writer.scalars(6, {"loss": 0.5})
  writer.close()
  assert metrics.read(str(tmp_path)) == [
    {"step": 0, "loss": 0.0},
    {"step": 2, "loss": 0.25},
    {"step": 4, "loss": 0.5},
    {"step": 6, "loss": 0.5},
  ]
  metrics.Writer(str(tmp_path), None).close()
  assert metrics.read(str(tmp_path)) == []


def test_a_folder_without_metrics_has_no_rows(tmp_path):
  assert metrics.read(str(tmp_path)) == []


def test_rows_are_json_even_where_a_value_is_not_finite(tmp_path):
  writer = metrics.Writer(str(tmp_path), None)
  writer.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 0.1})
  writer.close()

  def refuse(name):
    raise ValueError(name)

  text = (tmp_path / metrics.FILE).read_text()
  row = json.loads(text, parse_constant=refuse)
  assert row == {"step": 1, "a": None, "b": None, "c": 0.1}


def test_tensorboard_gets_scalars_timings_and_pictures(tmp_path):
  grid = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  writer = metrics.Writer(str(tmp_path), None)
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
  rows = metrics.read(str(tmp_path))
  assert rows == [{"step": 3, "loss": 0.5}], "timings differ between runs"


def events(data):
  """Reads TensorBoard's records: length, its crc, an Event, its crc."""
  while data:
    size = int.from_bytes(data[:8], "little")
    yield Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]


def test_progress_is_a_line_at_first_then_now_and_then(capsys, monkeypatch):
  clock = iter([0.0, 20.0, 22.0, 31.0, 40.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  progress = metrics.Progress(start=100, steps=104, every=10.0)
  rates = [progress.step(step, "reward", 0.25) for step in range(101, 105)]
  assert capsys.readouterr().out.splitlines() == [
    "step 101/104  first step 20.0 s (compiles)  reward 0.25",
    "step 103/104  0.18 steps/s  ETA 0:00:05  reward 0.25",
    "step 104/104  0.15 steps/s  ETA 0:00:00  reward 0.25",
  ]
  assert rates == [None, 1 / 2, 2 / 11, 3 / 20]


def test_progress_rewrites_its_line_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(metrics.sys.stdout, "isatty", lambda: True)
  clock = iter([0.0, 1.0, 2.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  progress = metrics.Progress(start=0, steps=2)
  progress.step(1, "loss", 1.0)
  progress.step(2, "loss", 0.5)
  progress.close()
  first, second = capsys.readouterr().out.split("\r\033[K")[1:]
  assert "\n" not in first
  assert second.endswith("loss 0.5\n")


def test_progress_says_what_follows_the_last_step(capsys, monkeypatch):
  clock = iter([0.0, 1.0, 2.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  progress = metrics.Progress(start=0, steps=2, then="evaluation")
  progress.step(1, "loss", 1.0)
  progress.step(2, "loss", 0.5)
  last = capsys.readouterr().out.splitlines()[-1]
  assert "ETA 0:00:00, then evaluation  loss" in last


def test_tally_counts_now_and_then_with_an_eta(capsys, monkeypatch):
  clock = iter([0.0, 20.0, 21.0, 22.0, 31.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  tally = metrics.Tally(100, "users", every=10.0)
  for label in ("base", "base", "sft", "sft"):
    tally.add(f"evaluating {label}", 20)
  tally.clear()
  assert capsys.readouterr().out.splitlines() == [
    "evaluating base: 20/100 users",
    # The first took 20 s, compiling; three more took 11.
    "evaluating sft: 80/100 users  ETA 0:00:03",
  ]


def test_tally_is_silent_where_it_is_quick(capsys, monkeypatch):
  clock = iter([0.0, 3.0, 6.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  tally = metrics.Tally(2, "users", every=10.0)
  tally.add("x", 1)
  tally.add("x", 1)
  tally.clear()
  assert capsys.readouterr().out == ""


def test_tally_rewrites_and_removes_its_line_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(metrics.sys.stdout, "isatty", lambda: True)
  clock = iter([1.0, 2.0])
  monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
  tally = metrics.Tally(2, "users")
  tally.add("x", 1)
  tally.add("x", 1)
  tally.clear()
  assert capsys.readouterr().out.split("\r\033[K") == [
    "",
    "x: 1/2 users",
    "x: 2/2 users  ETA 0:00:00",
    "",
  ]


def test_progress_leaves_the_terminal_on_a_new_line(capsys, monkeypatch):
  monkeypatch.setattr(metrics.sys.stdout, "isatty", lambda: True)
  progress = metrics.Progress(start=0, steps=9)
  progress.step(1, "loss", 1.0)
  progress.close()
  progress.say("stopped")
  assert capsys.readouterr().out.endswith("loss 1\nstopped\n")
