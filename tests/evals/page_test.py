"""The page is whole, self-contained and safe, whatever a run holds."""

from html.parser import HTMLParser
import re

import numpy as np
import pytest

from genrec_jax.evals import curves, page
from genrec_jax.evals.examples import Picture, User


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
  assert "$" not in re.sub(r'content: "\$ "', "", text), "unfilled"


def test_page_with_everything():
  users = [
    User(
      "user 7",
      ("red", "star"),
      [Picture(IMAGE, (("red", True), ("cross", False)))],
      Picture(LARGE),
      {"rl": [Picture(IMAGE, (("red", True),), copied=True)]},
    )
  ]
  text = _page(
    command="python main.py --config=configs/rl.py",
    config={"task": "rl", "weights": {"text": 0.5, "copy": 1.0}},
    curves={
      "reward": [(i, 0.1 * i) for i in range(100)],
      "eval/preference_match": [(0, 0.2), (50, 0.5)],
      "reward/text_zero_spread": [(i, 0.0) for i in range(100)],
    },
    users=users,
  )
  _check(text)
  assert "Preference match: base 0.200 → rl 0.700" in text
  assert text.count("class=best") == 2
  assert "image/png" in text
  assert "image/jpeg" in text
  assert "<em>red</em>" in text
  assert ">copy<" in text
  assert "text 0.5, copy 1" in text
  assert "reward: text zero spread = 0" in text
  assert text.count("<figure data-points") == 2
  assert "prefers-color-scheme: dark" in text


def test_page_with_nothing_but_numbers():
  text = _page()
  _check(text)
  assert "Learning curves" not in text
  assert "Some of the users" not in text


def test_text_is_escaped():
  user = User("<b>&", (), [], Picture(IMAGE), {"<u>": []})
  text = _page(
    command="a <x> & b", config={"data": {"path": "<y>"}}, users=[user]
  )
  _check(text)
  for raw in ("<x>", "<y>", "<b>&", "<u>"):
    assert raw not in text


def test_large_pictures_are_shrunk():
  noise = np.random.default_rng(0).integers(
    256, size=(384, 384, 3), dtype=np.uint8
  )
  user = User("u", (), [Picture(noise)] * 5, Picture(noise), {"rl": []})
  assert len(_page(users=[user])) < 400_000


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 1e-12], [-5.0, 3e6]])
def test_curves_stay_inside_their_box(values):
  text = curves.curves_html({"loss": list(enumerate(values))}, SUMMARY)
  for points in re.findall(r' points="([^"]+)"', text):
    for pair in points.split():
      x, y = map(float, pair.split(","))
      assert 0 <= x <= 320
      assert 0 <= y <= 132


def test_curves_of_a_single_step_are_left_out():
  assert curves.curves_html({}, SUMMARY) == ""
  text = curves.curves_html({"loss": [(3, 1.0)], "odd": [(3, 1.0)]}, SUMMARY)
  assert "<figure" not in text
