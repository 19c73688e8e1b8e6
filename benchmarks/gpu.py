r"""Speed on a GPU at the true size of Janus-Pro-1B, next to torch's.

    python -m benchmarks.gpu --out=FOLDER [--size=1b] [--seconds=480]

Random weights, made on the device; no file is read, nothing is downloaded.
Both sides compute in bfloat16 and train float32 weights. Torch measures the
card's own rates first, of a copy and of products; then come this project's
tasks, `gpu_jax`, and torch's, `gpu_torch`, each side a process of its own that
has the card to itself. Every figure is printed as it comes and written to
FOLDER/results.jsonl; a task that fails says why and the next one follows. At
the end all are put next to each other in a table of Markdown. In the same
folder again it measures what is not there yet: other code needs another one.

What this project has not measured in its first turn, as it broke or was late,
it tries after torch: where it broke, with fewer of XLA's features, `CAREFUL`.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

from absl import flags

from benchmarks import workload
from genrec_jax.runtime import cli

KILLED = "killed: its time was over"
# Part -> the share of the time that is left to it when it starts.
PARTS = {"limits": 0.2, "jax": 0.55, "torch": 0.9, "attention": 0.5}
DEFAULT = ["limits", "jax", "torch", "jax", "attention"]
# This project's; see `gpu_jax.Program`.
TASKS = [
  "rollout",
  "sample_1",
  "sample_8",
  "sft",
  "rl_conditional",
  "rl_guided",
]
# Of the table, in its order.
_ROWS = (
  "sample_1",
  "sample_8",
  "rollout",
  "sft",
  "rl_conditional",
  "rl_guided",
)
# Without what fails most often: recorded launches, and kernels chosen by time.
CAREFUL = "--xla_gpu_enable_command_buffer= --xla_gpu_autotune_level=0"


def part(name, size, device, file, until, tasks):
  """Measures one part in this process; `tasks` are some of this project's."""
  start = time.time()

  def left():
    # Of the whole run, so that a slow part shortens the later ones.
    return until - time.time()

  def say(task, **found):
    with open(file, "a") as out:
      # A line at once: what comes later may be killed.
      out.write(json.dumps({"side": name, "task": task, **found}) + "\n")
    print(
      f"[{time.time() - start:4.0f} s] {name} {task}: {text(found)}", flush=True
    )

  if name == "limits":
    from benchmarks import gpu_torch

    say("card", **gpu_torch.limits(device))
  elif name == "torch":
    from benchmarks import gpu_torch

    gpu_torch.run(size, device, say, left)
  elif name == "attention":
    from benchmarks import gpu_attention

    gpu_attention.run(device, say, left)
  else:
    from benchmarks import gpu_jax

    # A second turn takes only what the first did not get.
    measured = {
      task
      for (side, task), row in results(file).items()
      if side == name and "seconds" in row
    }
    if tasks := [task for task in tasks if task not in measured]:
      gpu_jax.run(size, device, say, left, tasks)
    sys.stdout.flush()
    os._exit(0)  # what is still being compiled is of no use


def text(found):
  """Returns figures as a line, problems as they are."""
  if "failed" in found:
    return f"FAILED\n{found['failed']}"
  words = []
  for name, value in found.items():
    numbers = value if isinstance(value, list) else [value]
    shown = " ".join(
      f"{x:.4g}" if isinstance(x, float) else str(x) for x in numbers
    )
    words.append(f"{name} {shown}")
  return ", ".join(words)


def environment(device, folder):
  """Returns the variables of a part's process."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu" if device == "cpu" else f"{device},cpu",
    # What a program takes is told by the compiler, not by what is reserved.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "PYTHONUNBUFFERED": "1",
  }


def start(name, options, seconds, more):
  """Runs a part in a process of its own for at most so many seconds."""
  # A process of its own: its memory is given back, its crash is not ours.
  words = [f"--{key}={value}" for key, value in options.items()]
  words += [f"--part={name}", f"--until={time.time() + seconds - 5}"]
  try:
    return subprocess.run(
      [sys.executable, "-m", "benchmarks.gpu", *words],
      env=environment(options["device"], options["out"]) | more,
      timeout=seconds,
      check=False,
    ).returncode
  except subprocess.TimeoutExpired:
    return KILLED


def results(file):
  """Returns side, task -> figures; of several runs the last that worked."""
  found = {}
  if file.exists():
    for line in file.read_text().splitlines():
      row = json.loads(line)
      if "failed" not in row:
        # Later figures of a task go over earlier ones, by name.
        found.setdefault((row["side"], row["task"]), {}).update(row)
  return found


def table(found):
  """Returns tasks of all sides next to each other, as Markdown."""
  lines = [
    "| task | here | GB | torch, plain | tuned | compiled | GB | faster |",
    "|---|---|---|---|---|---|---|---|",
  ]
  ways = (" plain", " tuned", " tuned, compiled", " compiled")
  for task in _ROWS:
    ours = found.get(("jax", task), {})
    theirs = {
      way: found[key] for way in ways if (key := ("torch", task + way)) in found
    }
    here = _least(ours)
    rows = [_least(theirs.get(way, {})) for way in ways]
    rows[2] = min((x for x in rows[2:] if x), default=None)
    least = min((x for x in rows if x), default=None)
    memory = [x["gigabytes"] for x in theirs.values() if "gigabytes" in x]
    cells = [
      task,
      _cell(here, "s"),
      _cell(ours.get("gigabytes"), ""),
      *(_cell(x, "s") for x in rows[:3]),
      _cell(min(memory, default=None), ""),
      _cell(least / here if here and least else None, "x"),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join([*lines, *rates(found)])


def rates(found):
  """Returns lines on what the card can, and how much of it tasks reach."""
  card, lines = found.get(("limits", "card")), []
  if card:
    lines.append(
      f"copy {card['GB/s']:.0f} GB/s, products of bfloat16"
      f" {card['tflops']:.0f} TFLOP/s"
    )
  for (side, task), row in found.items():
    if side != "jax":
      continue
    if "GB/s" in row:
      share = f", {row['GB/s'] / card['GB/s']:.0%} of a copy's" if card else ""
      lines.append(
        f"{task}: {row['ms a code']:.2f} ms and {row['GB a code']:.2f} GB a"
        f" code, {row['GB/s']:.0f} GB/s{share}"
      )
    if "tflops" in row:
      share = (
        f", {row['tflops'] / card['tflops']:.0%} of products'" if card else ""
      )
      lines.append(f"{task}: {row['tflops']:.0f} TFLOP/s{share}")
  return lines


def _least(row):
  seconds = row.get("seconds", [])
  # The first of several loads kernels.
  return min(seconds[1:] or seconds, default=None)


def _cell(value, unit):
  return "" if value is None else f"{value:.2f} {unit}".strip()


def main():
  """Starts all parts, one after another, and prints the table."""
  options = flags.FLAGS
  if options.part:
    file = pathlib.Path(options.out) / "results.jsonl"
    part(
      options.part,
      options.size,
      options.device,
      file,
      options.until,
      options.tasks,
    )
    return
  folder = pathlib.Path(options.out)
  # Also where programs are cached between the two turns.
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / "results.jsonl"
  until = time.time() + options.seconds
  given = {"size": options.size, "device": options.device, "out": str(folder)}
  given["tasks"] = ",".join(options.tasks)
  more = {}
  for name in options.parts:
    share = PARTS[name] if name != options.parts[-1] else 1.0
    seconds = share * (until - time.time())
    if seconds < 15:
      break
    begin = time.time()
    status = start(name, given, seconds, more if name == "jax" else {})
    print(f"{name}: status {status}, {time.time() - begin:.0f} s", flush=True)
    if name == "jax" and status not in (0, KILLED):
      more = {"XLA_FLAGS": CAREFUL}
  print(table(results(file)), flush=True)


if __name__ == "__main__":
  flags.DEFINE_enum("size", "1b", list(workload.SIZES), "Of the models.")
  flags.DEFINE_enum("device", "cuda", ["cpu", "cuda"], "Of both sides.")
  flags.DEFINE_string("out", "runs/gpu", "Folder for what is measured.")
  flags.DEFINE_list("parts", DEFAULT, "Some, in this order.")
  flags.DEFINE_list("tasks", TASKS, "Of this project.")
  flags.DEFINE_integer("seconds", 480, "Of all parts together.")
  flags.DEFINE_string("part", "", "Internal: the part that this process is.")
  flags.DEFINE_float("until", 0, "Internal: when its time is over.")
  cli.run(main)
