import os
import time

import pytest

from genrec_jax.runtime import progress as progress_lib


class Clock:
  """A clock that stands still until it is told the time."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress_lib.time, "monotonic", clock)
  monkeypatch.setattr(progress_lib._Last, "at", 0.0)
  return clock


def _on_a_terminal(monkeypatch):
  monkeypatch.setattr(progress_lib.sys.stdout, "isatty", lambda: True)


def _steps(progress, clock, times, **at):
  """Reports a step at each of some times; returns the rates."""
  first, name, value = at.get("first", 1), at.get("name", "loss"), 0.25
  rates = []
  for step, clock.now in enumerate(times, first):
    rates.append(progress.step(step, name, value))
  return rates


def test_progress_is_a_line_at_first_then_now_and_then(capsys, clock):
  progress = progress_lib.Progress(start=100, steps=104, every=10.0)
  times = [20.0, 22.0, 31.0, 40.0]
  rates = _steps(progress, clock, times, first=101, name="reward")
  assert capsys.readouterr().out.splitlines() == [
    "step 101/104  first step 20.0 s (compiles)  reward 0.25",
    "step 103/104  0.18 steps/s  ETA 0:00:05  reward 0.25",
    "step 104/104  0.15 steps/s  ETA 0:00:00  reward 0.25",
  ]
  assert rates == [None, 1 / 2, 2 / 11, 3 / 20]


def test_progress_rewrites_its_line_on_a_terminal(capsys, clock, monkeypatch):
  _on_a_terminal(monkeypatch)
  progress = progress_lib.Progress(start=0, steps=2)
  _steps(progress, clock, [1.0, 2.0])
  progress.close()
  first, second = capsys.readouterr().out.split("\r\033[K")[1:]
  assert "\n" not in first
  assert second.endswith("loss 0.25\n")


def test_progress_says_what_follows_the_last_step(capsys, clock):
  progress = progress_lib.Progress(start=0, steps=2, then="evaluation")
  _steps(progress, clock, [1.0, 2.0])
  last = capsys.readouterr().out.splitlines()[-1]
  assert "ETA 0:00:00, then evaluation  loss" in last


def _add(tally, clock, times, labels, count=1):
  for label, clock.now in zip(labels, times, strict=True):
    tally.add(label, count)


def test_tally_counts_now_and_then_with_an_eta(capsys, clock):
  tally = progress_lib.Tally(100, "users", every=10.0)
  labels = [f"evaluating {name}" for name in ("base", "base", "sft", "sft")]
  _add(tally, clock, [20.0, 21.0, 22.0, 31.0], labels, count=20)
  tally.clear()
  assert capsys.readouterr().out.splitlines() == [
    "evaluating base: 20/100 users",
    # The first took 20 s, compiling; three more took 11.
    "evaluating sft: 80/100 users  ETA 0:00:03",
  ]


def test_tally_is_silent_where_it_is_quick(capsys, clock):
  tally = progress_lib.Tally(2, "users", every=10.0)
  _add(tally, clock, [3.0, 6.0], "xx")
  tally.clear()
  assert capsys.readouterr().out == ""


def test_quick_parts_in_a_row_are_not_silent_together(capsys, clock):
  for part, begun in enumerate([0.0, 8.0, 16.0]):
    tally = progress_lib.Tally(2, "parts", every=10.0)
    _add(tally, clock, [begun + 3, begun + 6], [f"part {part}"] * 2)
    tally.clear()
  assert capsys.readouterr().out.splitlines() == [
    "part 1: 1/2 parts",  # at 11 s
    "part 2: 2/2 parts  ETA 0:00:00",  # at 22 s, and not at 19
  ]


def test_tally_rewrites_and_removes_its_line_on_a_terminal(
  capsys, clock, monkeypatch
):
  _on_a_terminal(monkeypatch)
  tally = progress_lib.Tally(2, "users")
  _add(tally, clock, [1.0, 2.0], "xx")
  tally.clear()
  assert capsys.readouterr().out.split("\r\033[K") == [
    "",
    "x: 1/2 users",
    "x: 2/2 users  ETA 0:00:00",
    "",
  ]


def test_progress_leaves_the_terminal_on_a_new_line(capsys, monkeypatch):
  _on_a_terminal(monkeypatch)
  progress = progress_lib.Progress(start=0, steps=9)
  progress.step(1, "loss", 1.0)
  progress.close()
  progress.say("stopped")
  assert capsys.readouterr().out.endswith("loss 1\nstopped\n")


def test_relay_shows_the_newest_line_now_and_then(capsys, clock):
  relay = progress_lib.Relay(every=10.0)
  lines = ("step 1", "step 2", "step   3")
  for line, clock.now in zip(lines, [0.0, 3.0, 12.0], strict=True):
    relay.show("run 1", line)
  assert capsys.readouterr().out.splitlines() == [
    "run 1: step 1",
    "run 1: step 3",
  ]


def test_relay_stays_on_one_line_of_a_terminal(capsys, monkeypatch):
  _on_a_terminal(monkeypatch)
  # pytest itself asks for the size, with arguments.
  size = os.terminal_size((20, 5))
  monkeypatch.setattr(
    progress_lib.shutil, "get_terminal_size", lambda *_, **__: size
  )
  relay = progress_lib.Relay()
  relay.show("run", "x" * 100)
  relay.close()
  assert capsys.readouterr().out == "\r\033[Krun: " + "x" * 14 + "\n"


def test_durations_in_words():
  assert progress_lib.duration(3725.9) == "1:02:05"


def test_waiting_says_how_long_and_what_is_quick_says_nothing(capsys):
  with progress_lib.waiting("compiling", every=60.0):
    pass
  assert capsys.readouterr().out == ""
  with progress_lib.waiting("compiling", every=0.01):
    time.sleep(0.2)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) >= 2
  assert set(lines) == {"compiling, 0:00:00"}
  time.sleep(0.05)  # and no more, once it is done
  assert capsys.readouterr().out == ""


def test_waiting_is_heard_soon_after_silence(capsys, monkeypatch):
  monkeypatch.setattr(progress_lib._Last, "at", time.monotonic() - 60.0)
  with progress_lib.waiting("compiling", every=1.0):
    time.sleep(0.3)  # a tenth, not a whole
  assert capsys.readouterr().out == "compiling, 0:00:00\n"


def test_waiting_ends_with_the_error_of_what_was_waited_for(capsys):
  with (
    pytest.raises(KeyError),
    progress_lib.waiting("compiling", every=0.01),
  ):
    raise KeyError
  capsys.readouterr()
  time.sleep(0.05)
  assert capsys.readouterr().out == ""
