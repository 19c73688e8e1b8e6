"""Text to image without users: the docs' command, a resume, an evaluation."""

import json
import pathlib
import re
import shlex

import pytest

from genrec_jax.data import world
from tests.rewards_run_test import ROOT, command, rows

DOCS = (ROOT / "docs/rewards.md").read_text()


def flags():
  """Returns the flags of the docs' command."""
  section = DOCS.split("## Prompts without users")[1]
  [line] = re.findall(r"python main.py ((?:.*\\\n)*.*)\n", section)
  return shlex.split(line.replace("\\\n", " "))[1:]  # without --config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp("prompts")
  items = range(0, world.NUM_ITEMS, world.NUM_ITEMS // 40)
  names = [world.title(world.attributes(i)) for i in items][:40]
  (made / "prompts.txt").write_text("\n".join(names) + "\n")
  return made


def test_a_file_of_prompts_is_trained_on_and_evaluated(folder):
  options = [*flags(), "--config.train.steps=2", "--config.eval.base="]
  printed = command(folder, "rl", "t2i", *options)
  assert "36 training prompts of 40" in printed
  assert "mean nothing" not in printed  # the tiny models know these words
  [shown] = [x for x in printed.splitlines() if x.startswith("first prompt")]
  assert "<image_placeholder>" not in shown
  assert " on " in shown
  assert len(rows(folder, "t2i")) == 2
  for row in rows(folder, "t2i"):
    named = {k.split("/")[1] for k in row if k.startswith("reward/")}
    assert all(name.startswith("text_") for name in named)
  summary = check(folder / "t2i")
  assert set(summary["models"]) == {"sft", "rl"}  # no rows of items
  again = command(folder, "evaluate", "again", "--config.model.checkpoint=t2i")
  assert "data.prompts=" in again  # taken over
  found = check(folder / "again")
  assert found["users"] == summary["users"]  # the same are held out
  assert set(found["models"]) == {"sft", "rl"}


def check(workdir: pathlib.Path) -> dict:
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["population"] == "held-out prompts"
  for values in summary["models"].values():
    # By CLIP; no histories, no futures, nothing that judges compare with.
    assert {"text_clip", "diversity"} <= set(values)
    assert not [n for n in values if re.match("history|future|copy", n)]
  page = (workdir / "report.html").read_text()
  assert "history mean" not in page
  return summary
