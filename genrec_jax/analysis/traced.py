"""Traced: how long each phase of a step took, of a run's trace.

See `train/profile.py`. Phases are those of `roofline`; what runs at the same
time shares it.
"""

from pathlib import Path
import re

from genrec_jax.analysis import hlo, hlo_walk, roofline, tracing
from genrec_jax.core.errors import UserError
from genrec_jax.train import profile

IDLE = "idle"  # or what no instruction of the step did
_CONTROL = ("while", "call", "conditional")  # of which others are traced


def phases(folder: Path) -> dict[str, float]:
  """Returns the seconds of each phase, in the order of a step; they add up.

  Args:
    folder: of a step of a run, such as `profile/step_20` of its workdir.

  Raises:
    UserError: no trace of a step is there.
  """
  program = folder / profile.PROGRAM
  if not program.is_file():
    raise UserError(
      f"{folder} holds no {profile.PROGRAM}: expected the folder of one step,"
      f" WORKDIR/{profile.FOLDER}/step_20, of a run with"
      " --config.train.profile=20"
    )
  text = program.read_text()
  known = {
    step.instruction.name: roofline.phase_name(
      step.instruction.op_name, step.loops
    )
    for step in hlo_walk.walk(hlo.parse(text))
    if not step.fused and step.instruction.opcode not in _CONTROL
  }
  found = re.match(r"HloModule ([^\s,]+)", text)
  assert found is not None  # all HLO begins so
  # What else ran meanwhile, of other programs, has other names.
  spans = tracing.spans(str(folder), found[1])
  spans = [(a, b, known[name]) for a, b, name in spans if name in known]
  if not spans:
    raise UserError(
      f"{folder} has a trace without instructions of the step: expected one of"
      " CPUs or GPUs; XProf shows those of other devices"
    )
  seconds = tracing.shares(spans, IDLE)
  order = [s + way for s in roofline.SCOPES for way in ("", roofline.BACKWARD)]
  names = [*order, roofline.OTHER, IDLE]
  return {name: seconds[name] for name in names if name in seconds}


def text(seconds: dict[str, float]) -> str:
  """Returns a table of `phases` for a terminal."""
  total = sum(seconds.values())
  rows = [
    f"  {name:<24}{value:>10.3f}{value / total:>8.1%}"
    for name, value in [*seconds.items(), ("all", total)]
  ]
  return "\n".join([f"{'phase':<26}{'seconds':>10}{'share':>8}", *rows])
