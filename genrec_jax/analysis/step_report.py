"""Step report: memory, FLOPs, bytes and collectives per chip of a step."""

import dataclasses
import re
import time
from typing import Any

import jax

from genrec_jax.analysis import (
  abstract_step,
  hlo,
  hlo_collectives,
  hlo_cost,
  hlo_walk,
  roofline,
)
from genrec_jax.core.chips import Chip
from genrec_jax.train.plan import Plan

GIB = 2**30
DECODE = "decode"  # the named scope of the loop in `sampling.sample_images`
# Advice: what makes each part of the memory smaller.
KNOBS = {
  "trained": "more chips, a larger mesh.model, or LoRA (model.lora_rank)",
  "frozen": "more chips, a larger mesh.model, or a smaller clip.checkpoint",
  "reference": "more chips; none with LoRA or objective.kl_weight=0",
  "optimizer": "more chips, or LoRA (model.lora_rank)",
  "batch": "a smaller data.batch_size",
  "kv": "a smaller data.batch_size or a larger mesh.model",
  "rollout": "a larger mesh.model, which splits the copy that decodes",
  "other": (
    "more data.microbatches, a smaller data.batch_size, and model.remat=full"
  ),
}


@dataclasses.dataclass
class Report:
  """Figures of one chip and one step; settings are of the whole run."""

  chips: int
  mesh: dict[str, int]
  settings: dict[str, Any]
  hbm: int  # bytes
  # Bytes of what stays between steps, of the batch, and, where it compiled, of
  # what comes and goes: 'kv', prefix and answers; 'rollout', the parameters in
  # the decode loop; 'other', gradients, activations, the program.
  memory: dict[str, int]
  total: int = 0  # bytes at the peak, which the parts need not all see
  compile_seconds: float = 0.0
  problem: str = ""  # why the compiler refused
  work: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
  phases: list[roofline.Phase] = dataclasses.field(default_factory=list)
  collectives: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  unknown_trip_counts: list[str] = dataclasses.field(default_factory=list)

  @property
  def fits(self) -> bool:
    """True if the step can run on the chip."""
    return not self.problem and self.total <= self.hbm

  @property
  def more_prompts(self) -> int:
    """Prompts of each data shard that keys and values leave room for, about.

    Where microbatches keep a step's other memory as it is.
    """
    kv = self.memory.get("kv", 0)
    if not self.fits or not kv:
      return 0
    shards = self.mesh["data"] * self.mesh.get("slice", 1)
    return (self.hbm - self.total) // (kv * shards // self.settings["prompts"])


def report(
  config: Any, plan: Plan, title_tokens: int, hbm: int, chip: Chip
) -> Report:
  """Compiles a config's step and reads what came out.

  Args:
    config: of an SFT or RL run.
    plan: see `abstract_step.open_plan`.
    title_tokens: see `abstract_step.prompt_tokens`.
    hbm: bytes of one chip's memory that programs may use.
    chip: what it can do at best.
  """
  args = abstract_step.arguments(config, plan, title_tokens)
  state, frozen, batch = args
  figures = Report(
    chips=plan.mesh.size,
    mesh=dict(plan.mesh.shape),
    settings=_settings(config, plan, batch),
    hbm=hbm,
    memory={
      "trained": abstract_step.nbytes(state.params),
      "frozen": abstract_step.nbytes(
        (frozen["generator_rest"], frozen["clip"])
      ),
      "reference": abstract_step.nbytes(frozen.get("reference", ())),
      "optimizer": abstract_step.nbytes(state.opt_state),
      "batch": abstract_step.nbytes(batch),
    },
  )
  lowered = abstract_step.lower(config, plan, args)
  start = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    figures.problem = str(error).strip()
    figures.total = _needed(figures.problem, sum(figures.memory.values()))
    if not figures.total:
      raise
  else:
    text = compiled.as_text()
    assert text is not None  # all backends have one
    program = hlo.parse(text)
    _read_memory(figures, config, plan, args, compiled, program)
    _read_work(figures, program)
    figures.phases = roofline.phases(program, chip)
  figures.compile_seconds = time.perf_counter() - start
  return figures


def _needed(problem: str, resident: int) -> int:
  """Returns the bytes that libtpu's refusal names; 0: it is another error."""
  # Its two wordings: of all memory, or of what the arguments leave.
  used = re.search(r"(Used |temporaries \()([\d.]+)([MG])\b", problem)
  if "RESOURCE_EXHAUSTED" not in problem or not used:
    return 0
  size = int(float(used[2]) * {"M": 2**20, "G": GIB}[used[3]])
  return size if used[1] == "Used " else size + resident


def _settings(config: Any, plan: Plan, batch: Any) -> dict[str, Any]:
  settings = {
    "task": config.task,
    "prompts": config.data.batch_size,
    "microbatches": config.data.microbatches,
    "prompt tokens": batch.prompt.ids.shape[1],
    "image tokens": plan.model.image_tokens,
    "compute": config.model.dtype,
    "remat": config.model.remat,
  }
  if config.task == "rl":
    settings["samples"] = config.sample.num_samples
    settings["guidance"] = config.sample.guidance
  return settings


def _read_memory(
  figures: Report,
  config: Any,
  plan: Plan,
  args: Any,
  compiled: Any,
  program: hlo.Program,
) -> None:
  """Fills in the memory of a compiled step."""
  stats = compiled.memory_analysis()
  # Memory beyond the arguments; outputs that take a donated one's are not new.
  temporary = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
  temporary += stats.output_size_in_bytes - stats.alias_size_in_bytes
  figures.total = stats.argument_size_in_bytes + temporary
  # What the decode loop carries is the cache or else the rollout's parameters.
  kv = rollout = 0
  for loop in hlo_walk.loops(program):
    if loop.is_of(DECODE):
      whole = abstract_step.kv_shapes(config, plan, args)
      held = sum(a.nbytes for a in loop.carried if _is_part(a, whole))
      if held >= kv:  # of several loops the last has the largest cache
        kv, rollout = held, sum(a.nbytes for a in loop.carried) - held
  figures.memory |= {
    "kv": kv,
    "rollout": rollout,
    "other": max(temporary - kv - rollout, 0),
  }


def _read_work(figures: Report, program: hlo.Program) -> None:
  """Fills in the FLOPs, the bytes and what travels between chips."""
  figures.work = {
    name: {"decode loop": count(program, DECODE), "all": count(program)}
    for name, count in (
      ("FLOPs", hlo_cost.flops),
      ("bytes", hlo_cost.memory_bytes),
    )
  }
  figures.unknown_trip_counts = [
    loop.op_name or loop.name
    for loop in hlo_walk.loops(program)
    if loop.trip_count is None
  ]
  groups: dict[tuple[bool, str], list[hlo_collectives.Collective]] = {}
  for moved in hlo_collectives.find(program):
    groups.setdefault((moved.within(DECODE), moved.kind), []).append(moved)
  figures.collectives = [
    {
      "where": "decode loop" if inside else "elsewhere",
      "kind": kind,
      "instructions": len(those),
      "times": sum(c.times for c in those),
      "bytes": sum(c.times * c.nbytes for c in those),
      "largest": max(c.nbytes for c in those),
    }
    for (inside, kind), those in sorted(groups.items())
  ]


def _is_part(array: hlo.Array, whole: list[Any]) -> bool:
  """True if an array can be a shard of one of the whole ones."""
  return any(
    len(array.shape) == len(x.shape)
    and array.nbytes == array.size * x.dtype.itemsize
    and all(n % part == 0 for n, part in zip(x.shape, array.shape, strict=True))
    for x in whole
  )


def text(figures: Report) -> str:
  """Returns a report for a terminal."""
  mesh = " x ".join(f"{name} {size}" for name, size in figures.mesh.items())
  lines = [
    f"{figures.chips} chips, mesh {mesh}",
    ", ".join(f"{k} {v}" for k, v in figures.settings.items()),
    f"compiled in {figures.compile_seconds:.0f} s",
    "",
    f"{'memory per chip':<28}{'GiB':>8}",
    *(
      f"  {name:<26}{size / GIB:>8.2f}" for name, size in figures.memory.items()
    ),
    f"  {'total':<26}{figures.total / GIB:>8.2f} of {figures.hbm / GIB:.2f}:"
    f" {'fits' if figures.fits else 'DOES NOT FIT'}",
  ]
  if figures.more_prompts:
    lines.append(
      f"  room for about {figures.more_prompts} more prompts in each data"
      " shard, in as many more microbatches"
    )
  if not figures.fits:
    # Where it did not compile, what comes and goes is all the rest.
    memory = {
      "other": figures.total - sum(figures.memory.values())
    } | figures.memory
    largest = sorted(memory, key=lambda name: memory[name], reverse=True)
    lines += ["", "what would help, the largest part first:"]
    lines += [f"  {name}: {KNOBS[name]}" for name in largest[:3]]
  if figures.problem:
    lines += ["", figures.problem]
  if figures.work:
    lines += ["", f"{'work per chip':<28}{'decode loop':>14}{'all':>14}"]
    lines += [
      f"  {name:<26}{count['decode loop']:>14.2e}{count['all']:>14.2e}"
      for name, count in figures.work.items()
    ]
    header = f"{'instructions':>14}{'times':>10}{'GB':>10}{'largest MB':>12}"
    lines += ["", f"{'between chips, per chip':<36}{header}"]
    lines += [
      f"  {c['where']:<12}{c['kind']:<22}{c['instructions']:>14}"
      f"{c['times']:>10}{c['bytes'] / 1e9:>10.2f}{c['largest'] / 1e6:>12.3f}"
      for c in figures.collectives
    ] or ["  nothing"]
    lines += ["", *_roofline_text(figures.phases)]
  lines += [
    f"loop of unknown trip count, counted once: {name}"
    for name in figures.unknown_trip_counts
  ]
  return "\n".join(lines)


def _roofline_text(phases: list[roofline.Phase]) -> list[str]:
  """Returns the lines of the table of phases."""
  header = f"{'FLOPs':>10}{'bytes':>10}{'links':>10}"
  return [
    f"{'seconds at least, per step':<28}{header}  bound by",
    *(
      f"  {p.name:<26}{p.flop_seconds:>10.3f}{p.byte_seconds:>10.3f}"
      f"{p.link_seconds:>10.3f}  {p.bound}"
      for p in phases
    ),
    f"  {'all, one after another':<26}{roofline.seconds(phases):>10.3f}",
  ]
