"""Compiles a config's real training step for TPUs that are not there.

    python tools/compile_check.py --config=configs/rl.py:janus_pro_7b \
        --topology=v5e:8x8 [--json=FILE] [--config.key=value ...]

Prints, per chip, what memory the step takes and whether it fits, its FLOPs and
bytes, what travels between chips, in the decode loop or elsewhere, and the
least seconds of each phase: by FLOPs, bytes and links at the chip's peaks.
With --peers the step is written as others do, a prompt repeated for each of its
samples. With --layers=4,8 the language model is compiled with 4 and 8 layers,
and the figures go on in a straight line to its own number: minutes, not half an
hour.
Nothing is loaded or run: without config.model.checkpoint the variant's
published sizes are taken. Several slices: --config.mesh.slices=2, each of this
topology. Needs libtpu, no TPU. The exit status is 0 if the step fits, 1 if not.
"""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path
import re
import sys
from typing import Any

from absl import app, flags

from genrec_jax.config import check, flag
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli, path_flags

_CONFIG = flag.define()
_TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "Generation and chips along each axis: v5e:8x8, v6e:4x4 or v5p:2x2x2.",
  required=True,
)
_JSON = path_flags.path_flag("json", None, "File to write the same figures to.")
_TITLE_TOKENS = flags.DEFINE_integer(
  "title_tokens",
  32,
  "Tokens of the longest title, as no data is read.",
  lower_bound=0,
)

_PEERS = flags.DEFINE_bool(
  "peers", False, "Repeat each prompt for its samples, as others do."
)
_LAYERS = flags.DEFINE_list(
  "layers", [], "Two depths to compile, from which all layers' is computed."
)

# GiB of a chip's 16, 32 and 96 that libtpu leaves to programs.
HBM = {"v5e": 15.75, "v6e": 31.25, "v5p": 95.74}
# So that libtpu neither asks the cloud for a machine nor locks one.
_NO_TPU = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def main(_: list[str]) -> None:
  """Prints the report of one config on one topology."""
  cli.quieten()
  with cli.user_errors():
    config, topology = _CONFIG.value, _TOPOLOGY.value
    if config.task not in ("sft", "rl"):
      raise UserError(
        f"--config is of the task {config.task!r}: expected one that trains,"
        " configs/sft.py or configs/rl.py"
      )
    if _JSON.value and not os.access(Path(_JSON.value).parent, os.W_OK):
      raise UserError(
        f"--json={_JSON.value}: expected a file in a folder that can be written"
      )
    filled = config.copy_and_resolve_references()
    for section in ("model", "clip"):  # a preset stands in for none
      filled[section].checkpoint = config[section].checkpoint or "its preset"
    check(filled)
    devices = describe(topology, config.mesh.slices)
    from genrec_jax.analysis import step_report

    report = _report(config, devices, topology.split(":")[0])
    versions = _versions()
    print(f"{topology}, {versions}: compiled, not run")
    print(step_report.text(report))
    if _JSON.value:
      record = {"topology": topology, "versions": versions, "fits": report.fits}
      record |= {"layers": _LAYERS.value, "peers": _PEERS.value}
      record |= dataclasses.asdict(report)
      Path(_JSON.value).write_text(json.dumps(record, indent=2) + "\n")
  sys.exit(0 if report.fits else 1)


def _report(config: Any, devices: list[Any], kind: str) -> Any:
  """Compiles the step, or two of fewer layers, and returns the report.

  Raises:
    UserError: the flags ask for what the config has not.
  """
  from genrec_jax.analysis import abstract_step, depth, peers, step_report
  from genrec_jax.core import chips

  if _PEERS.value and config.task != "rl":
    raise UserError("--peers is of --config=configs/rl.py, which samples")
  try:
    layers = tuple(map(int, _LAYERS.value))
  except ValueError:
    layers = (0,)
  if layers and not (len(layers) == 2 and 0 < layers[0] < layers[1]):
    raise UserError(
      f"--layers={','.join(_LAYERS.value)}: expected two depths, such as 4,8"
    )

  def report(layers: int = 0) -> Any:
    plan = abstract_step.open_plan(
      config, flag.variant(), devices, layers=layers
    )
    if _PEERS.value:  # state and layout are the same
      model = peers.Repeated(plan.model, config.sample.num_samples)
      plan = plan._replace(model=model)
    hbm = int(HBM[kind] * step_report.GIB)
    return step_report.report(
      config, plan, _TITLE_TOKENS.value, hbm, chips.CHIPS[kind]
    )

  if not layers:
    return report()
  own: Any = abstract_step.open_plan(config, flag.variant(), devices).model
  few, more = layers
  both = report(few), report(more)
  return depth.extrapolate(both, (few, more), own.language.num_layers)


def describe(topology: str, slices: int) -> list[Any]:
  """Returns the devices of a topology, described and not there.

  Raises:
    UserError: libtpu is not there, or knows no such topology.
  """
  expected = (
    "expected a generation and its chips along each axis, as v5e:8x8, v6e:4x4"
    " (two axes) or v5p:2x2x2 (three)"
  )
  if not re.fullmatch(r"(v5e|v6e):\d+x\d+|v5p:\d+x\d+x\d+", topology):
    raise UserError(f"--topology={topology}: {expected}")
  import jax

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "libtpu, the compiler for TPUs, is not installed: run"
      f" pip install 'jax[tpu]=={jax.__version__}' (no TPU is needed)"
    )
  jax.config.update("jax_platforms", "cpu")
  for name, value in _NO_TPU.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, num_slices=slices
    )
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f"--topology={topology} is refused by libtpu ({reason}): {expected}"
    ) from None
  return list(found.devices)


def _versions() -> str:
  from importlib import metadata

  names = ("jax", "libtpu")
  return ", ".join(f"{name} {metadata.version(name)}" for name in names)


if __name__ == "__main__":
  app.run(main, flags_parser=flag.parse)
