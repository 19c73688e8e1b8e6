"""The page is whole, self-contained and safe, whatever a run holds."""

from html.parser import HTMLParser
import re

import numpy as np

from genrec_jax.evals import page
from genrec_jax.evals.examples import ShownImage, User


def _cell(mean):
  return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


SUMMARY = {
  "users": 5,
  "models": {
    "base": {"preference_match": _cell(0.2), "copy_rate": _cell(0.0)},
    "rl": {"preference_match": _cell(0.7), "copy_rate": _cell(0.1)},
    "random_item": {"preference_match": _cell(0.19)},
    "copy_last": {"copy_rate": _cell(1.0)},
  },
  "shuffled": {"rl": {"preference_match": _cell(0.21)}},
  "differences": {
    "rl - base": {
      "preference_match": {"mean": 0.5, "low": 0.4, "high": 0.6},
      "copy_rate": {"mean": 0.1, "low": 0.05, "high": 0.15},
    },
    "rl - rl shuffled": {"preference_match": _cell(0.49)},
  },
}
IMAGE = np.zeros((32, 32, 3), np.uint8)
LARGE = np.zeros((384, 384, 3), np.uint8)
VOID = {"meta", "img"}


class _Balance(HTMLParser):
  """Checks that every tag is closed, in order."""

  def __init__(self):
    super().__init__()
    self.open = []

  def handle_starttag(self, tag, attrs):
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    pass

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _page(**kwargs):
  return page.page(SUMMARY, title="T", stamp="S", **kwargs)


def _check(text):
  parser = _Balance()
  parser.feed(text)
  assert parser.open == []
  assert not re.search(r'(src|href)="(?!data:)', text), "not inline"
  assert "url(" not in text
  assert not re.search("{[{%#]", text), "unfilled"


def test_page_with_everything():
  users = [
    User(
      "user 7",
      ("red", "star"),
      [ShownImage(IMAGE, (("red", True), ("cross", False)))],
      ShownImage(LARGE),
      {"rl": [ShownImage(IMAGE, (("red", True),), copied=True)]},
    )
  ]
  text = _page(
    command="python main.py --config=configs/rl.py",
    config={
      "task": "rl",
      "rewards": {"text": {"weight": 0.5}, "copy": {"weight": 1.0}},
      "clip": {"checkpoint": "some/clip"},
    },
    curves={
      "reward": [(i, 0.1 * i) for i in range(100)],
      "eval/preference_match": [(0, 0.2), (50, 0.5)],
      "reward/text_zero_spread": [(i, 0.0) for i in range(100)],
    },
    users=users,
  )
  _check(text)
  assert "Preference match: base 0.200 → rl 0.700</b>" in text
  assert text.count('class="best"') == 2
  assert "image/png" in text
  assert "image/jpeg" in text
  assert "<em>red</em>" in text
  assert ">copy<" in text
  assert "<dd>some/clip</dd>" in text
  assert "+0.500" in text
  assert "rl - shuffled" in text
  assert "text 0.5, copy 1" in text
  older = _page(config={"weights": {"text": 0.5, "copy": 1.0}})
  assert "text 0.5, copy 1" in older
  assert "reward: text zero spread = 0" in text
  assert text.count("<figure data-points") == 2
  assert "prefers-color-scheme: dark" in text


def test_titles_of_items_are_shown_and_escaped():
  items = [ShownImage(IMAGE, title="Heat (1995) <&>"), ShownImage(IMAGE)]
  user = User("u", (), items, ShownImage(IMAGE, title="Alien"), {"rl": []})
  text = _page(users=[user])
  _check(text)
  assert text.count(">Heat (1995) &lt;&amp;&gt;<") == 1
  assert text.count(">Alien<") == 1


def test_warnings_verdicts_and_who_was_evaluated_are_on_the_page():
  found = SUMMARY | {
    "population": "users' held-out last items",
    "warnings": ["tiny_clip <knows> nothing"],
    "verdicts": ["rl is below random item in text"],
  }
  curve = {"eval/preference_match": [(0, 0.2), (50, 0.5)]}
  text = page.page(found, title="T", stamp="S", curves=curve)
  _check(text)
  assert "tiny_clip &lt;knows&gt; nothing" in text
  assert "rl is below random item in text." in text
  assert "Means over 5 users&#39; held-out last items, with" in text
  assert "Users&#39; held-out last items, during training" in text
  assert "eld-out users" not in text
  assert 'class="notes"' not in _page()


def test_page_with_nothing_but_numbers():
  text = _page()
  _check(text)
  assert "Learning curves" not in text
  assert "Some of the users" not in text


def test_text_is_escaped():
  user = User("<b>&", (), [], ShownImage(IMAGE), {"<u>": []})
  text = _page(
    command="a <x> & b", config={"data": {"path": "<y>"}}, users=[user]
  )
  _check(text)
  for raw in ("<x>", "<y>", "<b>&", "<u>"):
    assert raw not in text


def test_large_images_are_shrunk():
  noise = np.random.default_rng(0).integers(
    256, size=(384, 384, 3), dtype=np.uint8
  )
  user = User("u", (), [ShownImage(noise)] * 5, ShownImage(noise), {"rl": []})
  assert len(_page(users=[user])) < 400_000


def test_settings_read_as_words():
  config = {
    "seed": 0,
    "eval": {"judges": ["one", "two"], "quality": ""},
    "rewards": {
      "text": {"weight": 0.5},
      "quality": {"weight": 0.0},
      "future": {"weight": 1},
    },
  }
  found = page._settings(config)
  assert found["judges"] == "one, two"
  assert found["seed"] == "0"
  assert found["reward weights"] == "text 0.5, future 1"
  assert "judges" not in page._settings({"eval": {"judges": []}})
