r"""The whole experiment of some data sets: SFT, RL, evaluation, study.

    python tools/experiment.py --data=movies=data/movies,beauty=data/beauty \
        --variant=janus_pro_1b --model=DIR --clip=DIR --judges=DIR,DIR \
        --out=runs/experiment [--seeds=2 --temperatures=0.5,0.7]
        [--flags="--config.data.batch_size=32"] [--print_commands]

Runs one command after another, each in a process of its own, and prints how
long each took. The same command again goes on where it stopped: what is done is
skipped, what was begun resumes. Where one data set's command fails, its others
are left out and the next data set begins. See docs/experiment.md.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
import shlex
import subprocess
import sys
import time
from typing import Any, NamedTuple

from absl import flags

from genrec_jax.core import files
from genrec_jax.core.errors import UserError, listed
from genrec_jax.runtime import cli, inheritance, path_flags, workdir_lock

_ROOT = Path(__file__).parents[1]
_RECORD = "experiment.json"  # in the folder of the results

_DATA = flags.DEFINE_list(
  "data", [], "NAME=DIR of each prepared data set; 'synthetic' is a DIR, too."
)
_OUT = path_flags.path_flag("out", None, "Folder of all results.")
_VARIANT = flags.DEFINE_string("variant", "", "Of the configs, if any.")
_MODEL = flags.DEFINE_string("model", "", "To fine-tune; else the config's.")
_CLIP = flags.DEFINE_string("clip", "", "That rewards; else the config's.")
_JUDGES = flags.DEFINE_list("judges", [], "That judge; else the config's.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of RL.", lower_bound=1)
_TEMPERATURES = flags.DEFINE_list(
  "temperatures", [], "Of the curves of alignment and diversity; none: no plot."
)
_USERS = flags.DEFINE_integer("users", 60, "Users in the study.", lower_bound=2)
_RATERS = flags.DEFINE_integer(
  "raters", 0, "Simulated raters, to try the analysis; 0: people are asked."
)
_FLAGS = flags.DEFINE_string(
  "flags", "", "More flags, for SFT, RL, evaluation."
)
_SFT_FLAGS = flags.DEFINE_string("sft_flags", "", "More flags, for SFT only.")
_RL_FLAGS = flags.DEFINE_string("rl_flags", "", "More flags, for RL only.")
_PRINT = flags.DEFINE_bool("print_commands", False, "Print and run nothing.")


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags say; see there."""

  variant: str = ""
  model: str = ""
  clip: str = ""
  judges: Sequence[str] = ()
  seeds: int = 1
  temperatures: Sequence[str] = ()
  users: int = 60
  raters: int = 0
  flags: Sequence[str] = ()
  sft_flags: Sequence[str] = ()
  rl_flags: Sequence[str] = ()


class Step(NamedTuple):
  """A command, and the file that it writes last."""

  name: str
  command: tuple[str, ...]  # without the interpreter
  done: Path

  @property
  def trains(self) -> bool:
    """Whether it is a run of main.py, in the workdir of `done`."""
    return self.command[0].endswith("main.py")


def steps(out: Path, data: str, options: Options) -> list[Step]:
  """Returns the steps of a data set, in order.

  Args:
    out: folder of its results.
    data: the prepared data set, or 'synthetic'.
    options: see `Options`.
  """
  shared = [f"--config.data.path={data}", *options.flags]
  if options.clip:
    shared.append(f"--config.clip.checkpoint={options.clip}")
  if options.judges:
    shared.append(f"--config.eval.judges={tuple(options.judges)!r}")

  def train(name, workdir, checkpoint, more):
    """Returns a step of main.py, whose summary.json comes at the end."""
    # Each config knows the same variants, as far as users choose them.
    suffix = f":{options.variant}" if options.variant else ""
    model = [f"--config.model.checkpoint={checkpoint}"] if checkpoint else []
    command = (
      str(_ROOT / "main.py"),
      f"--config={_ROOT / 'configs' / name}.py{suffix}",
      f"--workdir={workdir}",
      *model,
      *shared,
      *more,
    )
    # Written last, so that it is there only where all is done.
    return Step(workdir.name, command, workdir / "summary.json")

  sft = out / "sft"
  tuned = [out / f"rl_seed{seed}" for seed in range(options.seeds)]
  evaluated = out / "evaluate"
  # Each step reads what one before it made: the order matters.
  found = [train("sft", sft, options.model, options.sft_flags)]
  found += [
    train("rl", rl, sft, [f"--config.seed={seed}", *options.rl_flags])
    for seed, rl in enumerate(tuned)
  ]
  # Of the first seed: its samples are what people are asked about.
  curve = ",".join(options.temperatures)
  more = [f"--config.eval.temperatures=({curve},)"] if curve else []
  more.append(f"--config.eval.keep_images={options.users}")
  found.append(train("evaluate", evaluated, tuned[0], more))
  # SFT of every seed against RL of every seed: two groups to compare.
  rows = ",".join(["sft"] * len(tuned) + ["rl"] * len(tuned))
  paths = [str(rl) for rl in tuned]
  found.append(
    Step(
      "compare",
      # SFT is in the table of each RL run, with the noise of its seed.
      (
        str(_ROOT / "tools" / "compare.py"),
        *paths,
        *paths,
        f"--rows={rows}",
        f"--out={out / 'compare'}",
      ),
      out / "compare" / "compare.json",
    )
  )
  return found + study_steps(out, evaluated, options)


def study_steps(out: Path, evaluated: Path, options: Options) -> list[Step]:
  """Returns the steps of the study with people, or with simulated raters."""
  study, votes, found = out / "study", out / "votes", out / "analysis"
  tool = str(_ROOT / "tools" / "study.py")
  made = Step(
    "study",
    (
      tool,
      "make",
      f"--workdir={evaluated}",
      "--rows=rl,sft,content_knn,real_next_item",
      f"--users={options.users}",
      f"--out={study}",
    ),
    # Outside of what is served, and written when the rest is complete.
    study / "key.json",
  )
  # People answer when they do: the analysis is theirs to start.
  if not options.raters:
    return [made]
  return [
    made,
    Step(
      "simulate",
      (
        tool,
        "simulate",
        f"--study={study}",
        f"--raters={options.raters}",
        f"--out={votes}",
      ),
      # The simulated strengths, which the analysis should find again.
      votes / "truth.json",
    ),
    Step(
      "analyse",
      (
        tool,
        "analyse",
        f"--study={study}",
        f"--votes={votes / 'votes.jsonl'}",
        f"--out={found}",
      ),
      found / "analysis.json",
    ),
  ]


def read_record(out: Path) -> dict[str, Any]:
  """Returns {step: {"command", "seconds"}} of an earlier call."""
  path = out / _RECORD
  return json.loads(path.read_text()) if path.is_file() else {}


def check(planned: Mapping[str, Step]) -> None:
  """Refuses what the last command of an experiment would be refused for.

  Raises:
    UserError: lists the commands whose configs or data sets are wrong.
  """
  # Imports take seconds: bad flags are reported sooner.
  from genrec_jax import config as config_lib
  from genrec_jax.config import flag

  problems = []
  for name, step in planned.items():
    # Tools have few flags, and check them before they do anything.
    if not step.trains:
      continue
    values = dict(
      # As absl would split them: values may hold equal signs.
      arg.lstrip("-").partition("=")[::2]
      for arg in step.command[1:]
    )
    overrides = {
      key.removeprefix("config."): value
      for key, value in values.items()
      if key.startswith("config.")
    }
    try:
      config_lib.check(flag.load(values["config"], overrides))
    except UserError as error:
      # On one line, as several are listed.
      problems.append(f"{name}: {' '.join(str(error).split())}")
    data = overrides["data.path"]
    if data != inheritance.SYNTHETIC and not Path(data).is_dir():
      problems.append(f"{name}: no data set at {data}: no such folder")
  if problems:
    raise UserError(listed("these commands cannot run:", problems))


def check_record(
  planned: Mapping[str, Step], record: Mapping[str, Any]
) -> None:
  """Refuses to skip what was made by another command.

  Raises:
    UserError: lists the steps whose commands differ.
  """
  problems = [
    # What made it, so that the same results can be had again.
    f"{name}: {shlex.join(record[name]['command'])}"
    for name, step in planned.items()
    if name in record
    and step.done.exists()
    and tuple(record[name]["command"]) != step.command
  ]
  if problems:
    raise UserError(
      listed(
        "--out holds results of other flags; give another --out, remove their"
        " folders, or give the flags again that made",
        problems,
      )
    )


def run(
  planned: Mapping[str, Step], out: Path, record: dict[str, Any]
) -> list[str]:
  """Runs what is not done; returns the names of steps that failed."""
  failed: list[str] = []
  for number, (name, step) in enumerate(planned.items(), 1):
    title = f"[{number}/{len(planned)}] {name}"
    data_set = name.split("/", maxsplit=1)[0]
    if any(other.startswith(f"{data_set}/") for other in failed):
      print(f"{title}: left out, as {failed[-1]} failed", flush=True)
      continue
    if step.trains:
      # Of an experiment that was killed, the last run may go on, and be done.
      workdir_lock.wait(str(step.done.parent))
    if step.done.exists():
      took = record.get(name, {}).get("seconds")
      print(f"{title}: done" + (f" in {took:.0f} s" if took else ""))
      continue
    print(f"{title}: python {shlex.join(step.command)}", flush=True)
    before = record.get(name, {})
    begun = time.monotonic()
    # From any folder: paths given are the caller's, those of programs absolute.
    status = subprocess.run(
      [sys.executable, *step.command], check=False
    ).returncode
    # With the time of calls that were stopped.
    took = time.monotonic() - begun + before.get("seconds", 0)
    record[name] = {"command": list(step.command), "seconds": round(took, 1)}
    files.write(out / _RECORD, json.dumps(record, indent=2) + "\n")
    if status or not step.done.exists():
      failed.append(name)
      print(f"{title}: failed with status {status}", flush=True)
    else:
      print(f"{title}: took {took:.0f} s", flush=True)
  return failed


def parse_data(values: Sequence[str]) -> dict[str, str]:
  """Returns {name: folder} of NAME=DIR, ...

  Raises:
    UserError: no data set, no name, or the same name twice.
  """
  found: dict[str, str] = {}
  for value in values:
    name, equals, folder = value.partition("=")
    if not (name and equals and folder) or "/" in name or name in found:
      raise UserError(
        f"--data has {value!r}: expected NAME=DIR of prepared data sets, each"
        " name once, as in --data=movies=data/movies,beauty=data/beauty"
      )
    found[name] = path_flags.home(folder)
  if not found:
    raise UserError(
      "no data sets: expected NAME=DIR of one or more that"
      " tools/prepare_data.py made, as in --data=movies=data/movies"
    )
  return found


def main() -> None:
  """Does what the flags say."""
  if not _OUT.value:
    raise UserError("no --out: expected a folder for all results")
  out = Path(_OUT.value)
  options = Options(
    variant=_VARIANT.value,
    model=_MODEL.value,
    clip=_CLIP.value,
    judges=_JUDGES.value,
    seeds=_SEEDS.value,
    temperatures=_TEMPERATURES.value,
    users=_USERS.value,
    raters=_RATERS.value,
    flags=shlex.split(_FLAGS.value),
    sft_flags=shlex.split(_SFT_FLAGS.value),
    rl_flags=shlex.split(_RL_FLAGS.value),
  )
  planned = {
    f"{name}/{step.name}": step
    for name, folder in parse_data(_DATA.value).items()
    for step in steps(out / name, folder, options)
  }
  if _PRINT.value:
    for step in planned.values():
      print(f"python {shlex.join(step.command)}")
    return
  record = read_record(out)
  check_record(planned, record)
  check(planned)
  out.mkdir(parents=True, exist_ok=True)
  try:
    with workdir_lock.locked(str(out)):
      failed = run(planned, out, record)
  except workdir_lock.InUse:
    raise UserError(
      f"{out} is in use by another experiment: wait for it, stop it, or give"
      " another --out"
    ) from None
  if failed:
    raise UserError(
      f"failed: {', '.join(failed)}; what they printed says why. The same"
      " command goes on from there."
    )
  total = sum(record.get(name, {}).get("seconds", 0) for name in planned)
  print(f"all of it took {total / 60:.1f} minutes; results are in {out}")


if __name__ == "__main__":
  cli.run(main)
