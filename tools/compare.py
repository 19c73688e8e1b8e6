r"""Compares two runs user by user: mean differences, with intervals.

    python tools/compare.py runs/a runs/b
    python tools/compare.py runs/a runs/b --rows=rl,sft --out=DIR

RUN is the workdir of a finished run or evaluation; both have to be evaluated on
the same users. Prints the differences, first - second, as a table and as JSON,
which --out=DIR keeps as compare.json.
"""

import json
from pathlib import Path

from absl import flags

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli, path_flags

_ROWS = flags.DEFINE_list(
  "rows", ["rl", "rl"], "A row of each run's table, such as 'rl shuffled'."
)
_OUT = path_flags.path_flag("out", None, "Folder for compare.json.")


def main(*runs: str) -> None:
  """Does what the flags say."""
  if len(runs) != 2 or len(_ROWS.value) != 2:
    raise UserError(
      f"{len(runs)} runs and {len(_ROWS.value)} rows: expected two of each, as"
      " in python tools/compare.py runs/a runs/b --rows=rl,rl"
    )
  # Imports take a second: bad flags are reported sooner.
  from genrec_jax.evals import metrics, per_user

  runs = tuple(map(path_flags.home, runs))
  found = per_user.paired(*runs, *_ROWS.value)
  labels = [f"{run} {row}" for run, row in zip(runs, _ROWS.value, strict=True)]
  print(" - ".join(labels))
  for metric, cell in found.items():
    print(
      f"{metrics.metric_of(metric).title:<18}{cell['mean']:+.4f}"
      f"  [{cell['low']:+.4f}, {cell['high']:+.4f}]"
    )
  print("mean differences, user by user; 95 % bootstrap intervals over users")
  result = {
    "runs": list(runs),
    "rows": _ROWS.value,
    "differences": {" - ".join(labels): found},
  }
  text = json.dumps(result, indent=2)
  print(text)
  if _OUT.value:
    Path(_OUT.value).mkdir(parents=True, exist_ok=True)
    files.write(str(Path(_OUT.value, "compare.json")), text + "\n")


if __name__ == "__main__":
  cli.run(main, arguments=True)
