"""Golden numbers: two steps and a table of SFT and of RL, as users run them.

Each is `main.py` with configs/sft.py or rl.py on the bundled models, made small
by the flags below and by nothing else. tests/golden.json holds what it wrote.

    GOLDEN=exact python -m pytest -n 0 tests/golden_test.py   # bit for bit
    GOLDEN=update python -m pytest -n 0 tests/golden_test.py  # writes the file

'exact' is for one machine before and after a change: another processor sums in
another order.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILE = pathlib.Path(__file__).with_name("golden.json")
MODE = os.environ.get("GOLDEN", "")
FLAGS = [
  "--config.model.checkpoint=tiny_sft",
  "--config.train.steps=2",
  "--config.train.eval_every=0",  # the table at the end reads the last state
]
# What another processor may change, by a metric's name. Without XLA's passes,
# which round otherwise, a fifth of it was measured. Float32 sums of some
# thousand terms are off by 1e-6 of themselves, which the way back through the
# model adds up. The floors are absolute, for what is near 0:
RTOL = 2e-5
FLOOR = 1e-6
FLOORS = {
  # Before an update all ratios are 1: its mean, with weights that sum to 0.
  r"step.*loss": 1e-5,
  # Shares of 1, of which some are near 0: each is a mean of products of either
  # sign, of what is left of rewards of .4 once their group's mean is taken off,
  # so rounding is as large in a small share as in one of 1.
  r"step.*_contribution": RTOL,
  # Rounding and nothing else: between the decode loop and the training pass.
  r"step.*sampler_mismatch": 5e-4,
  # One pixel rounds to the next of 256 values.
  r"(models|shuffled):": 5e-5,
  # To a judge the untrained model's images are nearly alike: one of the eight
  # users may find the next item sixth, not seventh. (With SSE alone, 1/8 of
  # 1/6 - 1/7 was measured.)
  r"models: base: (mrr|ndcg)_tiny_judge$": 3e-3,
}
ADVICE = (
  "If no number was meant to change, the change is wrong: look for the first"
  " step's first metric that differs. If one was, or JAX is another version,"
  " write the new numbers with\n"
  "  GOLDEN=update python -m pytest -n 0 tests/golden_test.py\n"
  "and say in the commit which changed, by how much, and why."
)


def run(task, folder):
  """Returns {name: number} of what a run of two steps writes."""
  # Neither the devices nor the compiler's flags of tests/conftest.py.
  users = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
  workdir = folder / task
  done = subprocess.run(
    [
      sys.executable,
      str(ROOT / "main.py"),
      f"--config={ROOT}/configs/{task}.py:debug",
      f"--workdir={workdir}",
      *FLAGS,
    ],
    cwd=folder,
    env=os.environ | users | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-4000:]
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  table = json.loads((workdir / "summary.json").read_text())
  found = {}
  for row in map(json.loads, rows):
    step = row.pop("step")
    found |= {f"step {step}: {name}": value for name, value in row.items()}
  for part in ("models", "shuffled"):
    for model, values in table[part].items():
      for name, interval in values.items():
        found[f"{part}: {model}: {name}"] = interval["mean"]
  return found


def differences(found, golden):
  """Returns a line for each number that is not as it should be."""
  lines = [f"{name} is gone" for name in golden if name not in found]
  lines += [f"{name} is new" for name in found if name not in golden]
  for name in golden.keys() & found.keys():
    one, other = found[name], golden[name]
    floors = [f for start, f in FLOORS.items() if re.match(start, name)]
    floor = max([FLOOR, *floors])
    same = one == (
      other if MODE == "exact" else pytest.approx(other, rel=RTOL, abs=floor)
    )
    if not same:
      lines.append(f"{name}: {other!r} before, {one!r} now")
  return sorted(lines)


@pytest.mark.parametrize("task", ["sft", "rl"])
def test_two_steps_give_the_numbers_that_they_gave(task, tmp_path):
  found = run(task, tmp_path)
  golden = json.loads(FILE.read_text()) if FILE.exists() else {}
  if MODE == "update":
    golden[task] = found
    FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    return
  lines = differences(found, golden[task])
  assert not lines, "\n".join(["golden numbers differ:", *lines, ADVICE])


def test_a_number_that_differs_is_named_with_both_values(monkeypatch):
  golden = {"step 1: loss": 2.0, "step 1: kl": 0.0, "step 1: gone": 1.0}
  found = {"step 1: loss": 2.0001, "step 1: kl": 1e-7, "step 1: new": 1.0}
  expected = [
    "step 1: gone is gone",
    "step 1: loss: 2.0 before, 2.0001 now",
    "step 1: new is new",
  ]
  monkeypatch.setattr(sys.modules[__name__], "MODE", "")
  assert differences(found, golden) == expected
  monkeypatch.setattr(sys.modules[__name__], "MODE", "exact")
  expected.insert(1, "step 1: kl: 0.0 before, 1e-07 now")
  assert differences(found, golden) == expected
