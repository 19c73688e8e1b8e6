import json

from tests.evals.compare.conftest import USERS, write_run
from tests.tools.process import run_tool


def test_prints_and_keeps_paired_differences(tmp_path):
  runs = [
    write_run(tmp_path / name, gain, config={"rl.advantage": name})
    for name, gain in (("grpo", 0.1), ("rloo", 0.3))
  ]
  out = tmp_path / "out"
  status, printed, errors = run_tool("compare.py", *runs, f"--out={out}")
  assert status == 0, errors
  assert "advantage=rloo: preference match +0.200" in printed
  kept = json.loads((out / "compare.json").read_text())
  assert list(kept["differences"]) == ["advantage=rloo - advantage=grpo"]
  assert (out / "compare.html").is_file()


def test_what_cannot_be_compared_is_refused(tmp_path):
  status, printed, errors = run_tool("compare.py")
  assert (status, printed) == (1, "")
  assert errors.startswith("error: no runs: expected workdirs")
  one = write_run(tmp_path / "a", 0.1)
  other = write_run(tmp_path / "b", 0.1, users=USERS[:9])
  status, printed, errors = run_tool("compare.py", one, other)
  assert (status, printed) == (1, "")
  assert "users: 51 of 60 there and 9 here are in one only" in errors
