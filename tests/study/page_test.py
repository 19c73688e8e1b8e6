"""The page in a real browser: whole sessions, as people go through them."""

import json
import threading

import pytest

from genrec_jax.study import server as server_lib
from genrec_jax.study import texts
from genrec_jax.study.vote_file import VoteFile
from tests.study import browser as browser_lib
from tests.study.made import ATTACK, make_study

pytestmark = pytest.mark.skipif(
  browser_lib.PATH is None,
  reason="no browser: apt-get install chromium, to test the study's page",
)
CODE = "C0DE-42"
KEYS = {"left": "1", "right": "2", "neither": "0"}


class Served:
  """A small study, served from this process."""

  def __init__(self, folder, **options):
    wording = texts.Texts(title=f"Taste {ATTACK}", code=CODE, contact=ATTACK)
    given = {"rows": ("rl", "sft"), "users": 6, "wording": wording}
    self.study = make_study(folder, **given | options)
    self.path = folder / "votes.jsonl"
    self.file = VoteFile(self.path)
    app = server_lib.App(self.study, self.file, say=lambda line: None)
    self.server = server_lib.open_server("127.0.0.1", 0, app)
    threading.Thread(target=self.server.serve_forever, daemon=True).start()
    self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

  def close(self):
    self.server.shutdown()
    self.server.server_close()
    self.file.close()

  def votes(self):
    return [json.loads(line) for line in self.path.read_text().splitlines()]

  def block(self, number):
    return self.study.tasks["blocks"][number]


@pytest.fixture
def served(tmp_path):
  found = Served(tmp_path)
  yield found
  found.close()


@pytest.fixture
def browser():
  with browser_lib.open_browser() as found:
    found.screen(1280, 720)
    yield found


def shown(place, count, question):
  """Returns JavaScript that is true when a question can be answered."""
  return (
    "document.querySelector('#screen').dataset.ready === 'true' &&"
    f" document.querySelector('.progress').innerText === '{place} of {count}'"
    f" && document.querySelectorAll('.dot.on').length === {question + 1}"
  )


def practise(browser):
  """Goes to the first pair, by keyboard."""
  browser.wait_for("I agree")
  browser.press("Enter")
  browser.wait_for("What to do")
  browser.press("Enter")
  ready = "document.querySelector('#screen').dataset.ready === 'true'"
  for key, then in (
    ("1", "Look again"),
    ("2", "Which would this person rather choose next?"),
    ("2", "Which looks better made?"),
    ("2", "mark it as a copy"),
    ("4", "mark it as a copy"),
    ("2", "Now it begins"),
  ):
    browser.wait(ready)
    browser.press(key)
    browser.wait_for(then)
  browser.press("Enter")


def answer(browser, block, place, sides):
  for question, side in enumerate(sides):
    browser.wait(shown(place + 1, len(block), question))
    browser.press(KEYS[side])


def sides_of(place):
  names = list(KEYS)
  return [names[(place + q) % 3] for q in range(3)]


def test_a_whole_session_by_keyboard_with_a_reload(served, browser):
  block = served.block(0)
  browser.open(f"{served.url}?PROLIFIC_PID=p1&STUDY_ID=s-1&SESSION_ID=<b>")
  practise(browser)
  for place in range(4):
    answer(browser, block, place, sides_of(place))
  # In the middle of a pair; then back over the edge of one, and on again.
  answer(browser, block, 4, ["left"])
  browser.wait(shown(5, len(block), 1))
  browser.reload()
  browser.wait(shown(5, len(block), 1))
  for question, place in ((0, 5), (2, 4)):
    browser.press("Backspace")
    browser.wait(shown(place, len(block), question))
  answer_from = [sides_of(3)[2]]
  browser.press(KEYS[answer_from[0]])
  # A mark, a mark taken back, and one by Tab and Space.
  browser.wait(shown(5, len(block), 0))
  for key in "343":
    browser.press(key)
    browser.wait(shown(5, len(block), 0))
  browser.evaluate("document.querySelector('[data-copy=left]').focus()")
  browser.press(" ")
  browser.wait(
    "document.querySelector('[data-copy=left]').ariaPressed === 'true'"
  )
  for place in range(4, len(block)):
    answer(browser, block, place, sides_of(place))
  browser.wait_for("Thank you!")
  assert CODE in browser.text()
  votes = served.votes()
  assert [vote["task"] for vote in votes] == [task["id"] for task in block]
  for place, vote in enumerate(votes):
    assert list(vote["answers"].values()) == sides_of(place)
    assert vote["prolific_pid"] == "p1"
    assert vote["study_id"] == "s-1"
    assert vote["session_id"] == ""  # no such name
    assert vote["copies"] == ([] if place != 4 else ["left", "right"])
    assert all(0 < ms < 60_000 for ms in vote["milliseconds"].values())
  # Nothing went elsewhere, nothing ran that was no part of the page.
  assert all(url.startswith(served.url) for url in browser.requests)
  assert browser.problems == browser.dialogs == []
  browser.reload()
  browser.wait_for(CODE)
  assert len(served.votes()) == len(block)


def test_on_a_phone_with_a_finger(served, browser):
  browser.screen(360, 640, phone=True)
  browser.open(f"{served.url}?block=1")
  browser.wait_for("I agree")
  browser.tap("#agree")
  browser.wait_for("What to do")
  browser.tap("button.main")
  ready = "document.querySelector('#screen').dataset.ready === 'true'"
  for target, then in (
    ("[data-copy=right]", "✓"),
    ("[data-answer=right]", "rather choose next"),
    ("[data-answer=right]", "better made"),
    ("[data-answer=right]", "Now it begins"),
  ):
    browser.wait(ready)
    browser.tap(target)
    browser.wait_for(then)
  browser.tap("button.main")
  block = served.block(1)
  for place in range(len(block)):
    for question, side in enumerate(sides_of(place)):
      browser.wait(shown(place + 1, len(block), question))
      if place == 0:
        # All of it is on the screen, and what is tapped is large enough.
        sizes = browser.evaluate(
          "(() => { const e = document.documentElement;"
          " const h = [...document.querySelectorAll('.answer')]"
          " .map(b => b.getBoundingClientRect());"
          " return [e.scrollWidth, e.scrollHeight,"
          " Math.min(...h.map(r => r.height)),"
          " Math.max(...h.map(r => r.bottom))] })()"
        )
        assert sizes[0] <= 360
        assert sizes[1] <= 640
        assert sizes[2] >= 44
        assert sizes[3] <= 640
      browser.tap(f"[data-answer={side}]")
  browser.wait_for("Thank you!")
  votes = served.votes()
  assert [vote["task"] for vote in votes] == [task["id"] for task in block]
  # For the next person in a laboratory.
  browser.tap("button")
  browser.wait_for("I agree")
  assert browser.problems == []


def test_titles_are_never_html(served, browser):
  browser.open(served.url)
  browser.wait_for(f"Taste {ATTACK}")
  assert f"Ask {ATTACK}." in browser.text()
  assert browser.evaluate("document.title") == f"Taste {ATTACK}"
  practise(browser)
  browser.wait(shown(1, len(served.block(0)), 0))
  titles = browser.evaluate(
    "[...document.querySelectorAll('.title')].map(x => x.textContent)"
  )
  assert titles == [ATTACK, ATTACK]
  assert not browser.evaluate("document.querySelectorAll('[onerror]').length")
  assert browser.dialogs == []


def test_who_does_not_agree_is_not_recorded(served, browser):
  browser.open(served.url)
  browser.wait_for("No, thanks")
  browser.press("Tab")
  browser.press("Tab")
  browser.press("Enter")
  browser.wait_for("Nothing was recorded")
  assert served.votes() == []


def test_what_cannot_be_sent_is_kept_and_sent_later(served, browser):
  block = served.block(0)
  browser.open(served.url)
  practise(browser)
  taken = served.server.app.writes
  served.server.app.writes = Shut()
  for place in range(len(block)):
    answer(browser, block, place, sides_of(place))
  browser.wait_for("could not be sent")
  assert "Save my answers as a file" in browser.text()
  assert served.votes() == []
  served.server.app.writes = taken
  browser.reload()
  browser.wait_for("Your answers have arrived")
  assert len(served.votes()) == len(block)


class Shut:
  """A limit that lets nobody in."""

  def wait(self, address):
    del address
    return 0.001


def test_without_a_server_answers_are_a_file(tmp_path, browser):
  served = Served(tmp_path, collect="")
  try:
    browser.call(
      "Browser.setDownloadBehavior",
      behavior="allow",
      downloadPath=str(tmp_path / "downloads"),
    )
    browser.open(f"{served.url}?block=0")
    practise(browser)
    block = served.block(0)
    for place in range(len(block)):
      answer(browser, block, place, sides_of(place))
    browser.wait_for("Save my answers as a file")
    browser.press("Tab")
    browser.press("Enter")
    browser.wait_for("in your downloads")
    assert CODE in browser.text()
    assert not [url for url in browser.requests if url.endswith("/votes")]
    [path] = wait_for_files(tmp_path / "downloads")
    saved = json.loads(path.read_text())
    assert saved["study"] == served.study.id
    assert [v["task"] for v in saved["votes"]] == [t["id"] for t in block]
  finally:
    served.close()


def wait_for_files(folder):
  import time

  for _ in range(500):
    found = list(folder.glob("votes-*.json"))
    if found:
      return found
    time.sleep(0.02)
  raise AssertionError("no file was saved")
