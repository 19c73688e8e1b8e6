import json

import numpy as np

from genrec_jax.evals import kept_images
from genrec_jax.evals.compare import page, write
from genrec_jax.evals.kept_images import KeptUser
from tests.evals.page_test import _check

FAILED = {"name": "lr=9", "values": {"lr": "9"}, "seed": 1, "reason": "a <b>"}


def test_a_comparison_leaves_numbers_a_page_and_words(
  make_run, tmp_path, capsys, monkeypatch
):
  image = np.zeros((32, 32, 3), np.uint8)
  users = [
    KeptUser("u1", (image,), ("Heat <1995>",), {"rl": image, "sft": image}),
    KeptUser("u2", (image,), ("",), {"rl": image, "real_next_item": image}),
  ]
  monkeypatch.setattr(kept_images, "read", lambda workdir: users)
  paths = [
    make_run("a", 0.1),
    make_run("a1", 0.11, config={"seed": 1}),
    make_run("b", 0.3, config={"rl.advantage": "rloo"}),
  ]
  out = tmp_path / "new" / "out"
  found = write.compare(paths, str(out), failed=[FAILED])
  assert json.loads((out / "compare.json").read_text()) == found
  text = (out / "compare.html").read_text()
  _check(text)
  assert text.count('<article class="user">') == 2
  # History and two groups of each, and one real next item.
  assert text.count("<img ") == 2 + 2 * 2 + 1
  assert "Heat &lt;1995&gt;" in text
  assert "<b>failed:</b> a &lt;b&gt;</td>" in text
  assert text.count("<polyline") == 3
  assert "seeds 0, 1" in text
  assert '<span class="mark better">better</span>' in text
  printed = " ".join(capsys.readouterr().out.split())
  assert "60 held-out users; varied: rl.advantage" in printed
  assert "advantage=rloo seed 0 preference match 0.5" in printed
  assert "differences to advantage=grpo, user by user:" in printed
  assert "advantage=rloo: preference match +0.19" in printed
  assert "failed: lr=9, seed 1: a <b>" in printed


def test_a_run_alone_is_shown_without_differences(make_run, tmp_path, capsys):
  found = write.compare([make_run("a")], str(tmp_path))
  assert found["differences"] == {}
  _check((tmp_path / "compare.html").read_text())
  assert "differences to" not in capsys.readouterr().out


def test_colours_tell_many_groups_apart(make_run):
  class Group:
    def __init__(self, name):
      self.name = name

  colours = page._colours([Group(str(i)) for i in range(12)])
  assert len(set(colours.values())) == 12
