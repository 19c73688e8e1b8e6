"""Profile: a trace of one step of a run, and the program that it ran.

`tools/step_phases.py` reads from both what each phase took; XProf and Perfetto
read the trace.
"""

from pathlib import Path
from typing import Any

import jax

from genrec_jax.core import files

FOLDER = "profile"  # in a workdir
PROGRAM = "step.hlo.txt"  # written by the first of several processes


def take(step: Any, args: tuple[Any, ...], folder: Path) -> Any:
  """Takes a jitted step and traces it, from a quiet device to its results.

  Args:
    step: jitted; what it donates is donated.
    args: its arguments.
    folder: for the trace and the program, made here.

  Returns:
    The step's results, which are there.
  """
  folder.mkdir(parents=True, exist_ok=True)
  # Compiled by itself, as a jitted function does not show its program; from the
  # cache of compiled programs, where there is one.
  text = step.lower(*args).compile().as_text()
  if jax.process_index() == 0:
    files.write(folder / PROGRAM, text)
  jax.block_until_ready(args)
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # events of Python would slow it
  with jax.profiler.trace(str(folder), profiler_options=options):
    return jax.block_until_ready(step(*args))
