r"""Compares runs user by user: what was varied, differences to the first run.

    python tools/compare.py RUN [RUN ...] --out=DIR
    python tools/compare.py runs/rl runs/rl --rows=sft,rl --out=DIR

RUN is the workdir of a finished run or evaluation; all have to be evaluated on
the same users, horizon and data by the same judges. Runs that differ in their
seed only are one group, with intervals over seeds and users. Prints the
differences to the first group; compare.html in DIR has one table, the curves
laid over each other and the same users' images, compare.json the numbers.
"""

from absl import flags

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli, path_flags

_ROWS = flags.DEFINE_list(
  "rows",
  [],
  "A row of each run's table, such as 'rl shuffled', or one for all; by default"
  " each run's own model.",
)
_OUT = path_flags.path_flag(
  "out", None, "Folder for compare.html and compare.json."
)


def main(*runs: str) -> None:
  """Does what the flags say."""
  if not runs:
    raise UserError(
      "no runs: expected workdirs of finished runs, as in python"
      " tools/compare.py runs/a runs/b --out=DIR"
    )
  # Imports take a second: bad flags are reported sooner.
  from genrec_jax.evals.compare import write

  write.compare(
    [path_flags.home(run) for run in runs], _OUT.value, rows=_ROWS.value
  )


if __name__ == "__main__":
  cli.run(main, arguments=True)
