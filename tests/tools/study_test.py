"""The commands, each in a process of its own."""

import json

import pytest

from tests.study.made import make_study, write_images
from tests.tools.process import ROOT, run_tool


def test_from_images_to_an_analysis(tmp_path):
  workdir = write_images(tmp_path / "run", users=9)
  (tmp_path / "consent.txt").write_text("Please.\n\nThank you.")
  status, said, error = run_tool(
    "study.py",
    "make",
    f"--workdir={workdir}",
    "--rows=rl,sft",
    "--users=8",
    f"--consent={tmp_path / 'consent.txt'}",
    "--code=DONE",
    "--send_to=file",
    f"--out={tmp_path / 'study'}",
  )
  assert status == 0, error
  assert "2 rows of 8 users make 8 pairs" in said
  tasks = json.loads((tmp_path / "study/site/tasks.json").read_text())
  assert tasks["consent"] == ["Please.", "Thank you."]
  assert (tasks["code"], tasks["collect"]) == ("DONE", "")
  status, said, error = run_tool(
    "study.py",
    "simulate",
    f"--study={tmp_path / 'study'}",
    "--raters=6",
    "--truth=rl:.3,sft:-.3",
    "--runs=3",
    f"--out={tmp_path / 'votes'}",
  )
  assert status == 0, error
  assert "rl and sft, 0.60 apart" in said
  truth = json.loads((tmp_path / "votes/truth.json").read_text())
  assert truth == {"rl": 0.3, "sft": -0.3}
  status, said, error = run_tool(
    "study.py",
    "analyse",
    f"--study={tmp_path / 'study'}",
    f"--votes={tmp_path / 'votes'}",
    f"--out={tmp_path / 'analysis'}",
  )
  assert status == 0, error
  assert "rl against sft" in said
  assert (tmp_path / "analysis/analysis.html").exists()


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ((), "no command: expected one of make, serve, analyse, simulate"),
    (("judge",), "judge: expected one of make"),
    (("make",), "make needs --workdir, --rows, --out"),
    (("serve", "--study=x", "--out=y"), "serve takes no --out"),
    (("serve", "--study=nowhere"), "nowhere has no study.json"),
    (("analyse", "--study=x", "--votes=y", "--out=z", "--port=1"), "no --port"),
  ],
)
def test_mistakes_are_one_line(arguments, said):
  status, _, error = run_tool("study.py", *arguments)
  assert status == 1
  assert said in error
  assert len(error.strip().splitlines()) == 1


def test_only_make_needs_jax(tmp_path):
  study = make_study(tmp_path, users=4)
  code = (
    "import runpy, sys; sys.argv = sys.argv[1:]; tool = sys.argv[0]\n"
    "try:\n  runpy.run_path(tool, run_name='__main__')\n"
    "except SystemExit as end: assert not end.code, end.code\n"
    "from genrec_jax.study import server\n"
    "assert 'jax' not in sys.modules"
  )
  for arguments in (
    ("simulate", "--raters=4", "--runs=0", f"--out={tmp_path / 'votes'}"),
    ("analyse", f"--votes={tmp_path / 'votes'}", f"--out={tmp_path / 'out'}"),
  ):
    status, _, error = run_tool(
      "study.py", *arguments, f"--study={study.path}", code=code
    )
    assert status == 0, error
  assert ROOT.joinpath("tools/study.py").exists()
