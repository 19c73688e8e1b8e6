"""Says how long each phase of a traced step took.

    python main.py --config=configs/rl.py --config.train.profile=20 \
        --workdir=runs/rl
    python tools/step_phases.py --trace=runs/rl/profile/step_20

Reads traces of CPUs and GPUs; XProf reads those of TPUs as well.
"""

from pathlib import Path

from genrec_jax.runtime import cli, path_flags

_TRACE = path_flags.path_flag(
  "trace", None, "Folder of the traced step.", required=True
)


def main() -> None:
  """Prints the phases of one step."""
  # Slow to import: bad flags are reported sooner.
  from genrec_jax.analysis import traced

  print(traced.text(traced.phases(Path(_TRACE.value))))


if __name__ == "__main__":
  cli.run(main)
