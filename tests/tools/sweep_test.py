"""A whole sweep, with a training that takes no time."""

import json
import shlex

import pytest

from tests.tools.process import ROOT, run_tool

# Runs the tool with main.py replaced: what it would train is known by the
# advantage, {stop} interrupts the run it names, dr_grpo fails.
CODE = """
import json, pathlib, runpy, sys
sys.path.insert(0, {root!r})
from genrec_jax.config import flag
from genrec_jax.runtime import child
from tests.evals.compare.conftest import write_results

def run(command, log, seen):
  flags = dict(arg[2:].split("=", 1) for arg in command[2:])
  folder = pathlib.Path(flags.pop("workdir"))
  path = flags.pop("config")
  config = flag.load(path, {{k[7:]: v for k, v in flags.items()}})
  print("trains", folder.parent.name, folder.name, flush=True)
  if str(folder).endswith({stop!r}):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{{}}")  # begun, and not finished
    raise KeyboardInterrupt
  if config.rl.advantage == "dr_grpo":
    return "the loss is no longer finite"
  gain = {{"grpo": 0.1, "rloo": 0.3}}[config.rl.advantage]
  config.workdir = str(folder)
  write_results(folder, json.loads(config.to_json()), gain)

child.run = run
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CONFIG = f"--config={ROOT}/configs/rl.py:debug"


def _sweep(out, *args, stop="none"):
  code = CODE.format(root=str(ROOT), stop=stop)
  return run_tool("sweep.py", CONFIG, f"--out={out}", *args, code=code)


def _trained(printed):
  return [x[7:] for x in printed.splitlines() if x.startswith("trains ")]


def test_a_sweep_stopped_and_started_again_ends_with_the_same_table(tmp_path):
  args = [
    "--set=rl.advantage=grpo,rloo,dr_grpo",
    "--set=rl.normalise=batch",
    "--seeds=2",
  ]
  whole = tmp_path / "whole"
  status, printed, errors = _sweep(whole, *args)
  assert status == 1
  assert errors.startswith("error: 2 of 6 runs failed")
  assert len(_trained(printed)) == 6
  found = json.loads((whole / "compare.json").read_text())
  assert [(g["name"], g["seeds"]) for g in found["groups"]] == [
    ("advantage=grpo", [0, 1]),
    ("advantage=rloo", [0, 1]),
  ]
  (cells,) = found["differences"].values()
  assert cells["preference_match"]["mean"] == pytest.approx(0.2, abs=0.01)
  assert [(x["name"], x["seed"], x["reason"]) for x in found["failed"]] == [
    ("rl.advantage=dr_grpo", seed, "the loss is no longer finite")
    for seed in (0, 1)
  ]
  assert "the loss is no longer finite" in (whole / "compare.html").read_text()

  parts = tmp_path / "parts"
  status, printed, _ = _sweep(parts, *args, stop="grpo/seed_1")
  assert status == 130
  # All configurations come before the second seed of any.
  assert _trained(printed) == [
    "rl.advantage=grpo seed_0",
    "rl.advantage=rloo seed_0",
    "rl.advantage=dr_grpo seed_0",
    "rl.advantage=grpo seed_1",
  ]
  assert not (parts / "compare.json").exists()
  status, printed, _ = _sweep(parts, *args)
  assert "6 runs: 2 done already, 0 that cannot be, 4 to go" in printed
  assert _trained(printed)[:2] == [
    "rl.advantage=dr_grpo seed_0",
    "rl.advantage=grpo seed_1",
  ]
  again = (parts / "compare.json").read_text().replace(str(parts), str(whole))
  assert json.loads(again) == found
  # What failed is tried again, what is done is not.
  _, printed, _ = _sweep(parts, *args)
  assert _trained(printed) == [
    f"rl.advantage=dr_grpo seed_{seed}" for seed in (0, 1)
  ]


def test_commands_are_printed_and_values_that_cannot_be_are_rows(tmp_path):
  args = [
    "--case=rl.normalise=none",
    "--case='eval.temperatures=(0.5, 1.5)' rl.kl_of=branches",
    # Not together: only GRPO's advantage is of the group's unit.
    "--case=rl.advantage=rloo",
  ]
  status, printed, errors = _sweep(tmp_path / "out", *args, "--print_commands")
  assert status == 0, errors
  lines = [shlex.split(line) for line in printed.splitlines()]
  assert [line[3:] for line in lines] == [
    ["--config.seed=0", f"--workdir={tmp_path}/out/as_it_is/seed_0"],
    [
      "--config.rl.normalise=none",
      "--config.seed=0",
      f"--workdir={tmp_path}/out/rl.normalise=none/seed_0",
    ],
    [
      "--config.eval.temperatures=(0.5, 1.5)",
      "--config.rl.kl_of=branches",
      "--config.seed=0",
      lines[2][-1],
    ],
  ]
  assert lines[0][0] == "python"
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("args", "expected"),
  [
    (["--set=rl.advantag=grpo"], "unknown config key 'rl.advantag'"),
    (["--set=train.steps=many"], "flag --config.train.steps=many"),
    (["--set=rl.advantage=no"], "rl.advantage is 'no': expected one of"),
    (["--set=seed=1"], "seed cannot be set: give --seeds"),
    (["--seeds=0"], "flag --seeds=0"),
  ],
)
def test_a_sweep_that_cannot_run_is_refused_at_once(args, expected, tmp_path):
  status, printed, errors = _sweep(tmp_path / "out", *args)
  assert (status, printed) == (1, "")
  assert expected in errors
  assert not (tmp_path / "out").exists()
