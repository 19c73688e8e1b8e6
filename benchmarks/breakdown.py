"""The time of a compiled step, split into its parts.

    python -m benchmarks.breakdown [--size=40m] [--task=sft,rl_conditional]

One step is traced; the parts and the idle time add up to it (see `tracing`). On
CPUs, products for the gradients of weights are launched, and computed next to
what follows them: both share that time, whichever keeps the cores busier, so
the groups below are separated better than the parts of one group.

Parts are recognised by the names that XLA keeps of the traced functions, and by
the loops around an instruction. 'sampling' is the decode loop. 'only forward'
is what has no gradient: the prefix before sampling, and the reference.
'forward' and 'backward' are of the loss; what is computed again counts as
backward.
"""

import re
import tempfile

from absl import flags

from benchmarks import sides, workload
from genrec_jax.analysis import hlo, hlo_walk, tracing
from genrec_jax.runtime import cli

GROUPS = ("sampling", "only forward", "forward", "backward", "elsewhere")
_CONTROL = ("while", "call", "conditional")  # of which others are traced
# A custom-call is a library's kernel, which XLA puts in the place of a dot.
_PRODUCTS = ("dot", "convolution", "custom-call")
# Paths of layers with weights; all other products are attention's.
_LINEAR = re.compile(r"(_proj|/fc\d|hidden_layers/\d+)/|/Head/|/Aligner/")
# What lax.scan makes to read a slice of its inputs and to stack its outputs.
_STACKS = re.compile(r"dynamic_(update_)?index_in_dim")
# All of a loop belongs to what one of its instructions is named after.
_MARKS = {
  r"/mlp/fc\d|_resize": ("elsewhere", "vision towers and CLIP"),
  r"/(Encoder|Decoder|Quantizer)/": ("elsewhere", "image tokenizer"),
  r"/Head/|log_softmax": (None, "codes' head and log-probabilities"),
}


def parts(program):
  """Returns the (group, part) of every instruction that runs by itself."""
  # What is inside a fusion is traced as the fusion, under the fusion's name.
  steps = [step for step in hlo_walk.walk(program) if not step.fused]
  marked = {}  # loop's name -> (group, part)
  for step in steps:
    if step.loops and (found := _mark(step.instruction.op_name)):
      marked.setdefault(step.loops[-1].name, found)
  return {
    step.instruction.name: _part(program, step, marked)
    for step in steps
    if step.instruction.opcode not in _CONTROL
  }


def _mark(path):
  return next((v for k, v in _MARKS.items() if re.search(k, path)), None)


def _part(program, step, marked):
  line = step.instruction
  path = line.op_name
  # A fusion that holds a product spends its time on it.
  product = any(
    inside.opcode in _PRODUCTS
    for name in line.called.get("calls", ())
    for inside in program.computations[name].instructions.values()
  )
  product = product or line.opcode in _PRODUCTS
  linear = product and _LINEAR.search(path)
  # The decode loop first: it has no gradient, so its paths name no phase.
  if step.within("decode"):
    if linear:
      return "sampling", "linear layers"
    if product:
      # XLA rewrites products of one row each, and drops their names. Only
      # those with several samples' own keys have an axis of samples.
      which = " with the prefix" if path else ""
      if len(line.arrays[0].shape) > 4:
        which = " with sampled codes"
      return "sampling", f"attention, products{which}"
    return "sampling", "attention, rest" if "self_attn" in path else "rest"
  # JAX names what it differentiates jvp(...), and the backward pass of it
  # transpose(jvp(...)). The loops' names count as well, as XLA drops those of
  # many instructions inside.
  where = " ".join([path, *(loop.op_name for loop in step.loops)])
  phase = "backward" if "transpose(jvp" in where else "only forward"
  if phase == "only forward" and "jvp(" in where:
    phase = "forward"
  loop = step.loops[-1].name if step.loops else ""
  if found := _mark(path) or marked.get(loop):
    return found[0] or phase, found[1]
  if linear:
    return phase, "linear layers"
  if "self_attn" in path or product:
    return phase, "attention"
  if "/Block/" in path:
    return phase, "norms and other elementwise"
  # Nameless instructions are XLA's own; in a loop or a phase they are copies.
  if (not path or _STACKS.search(path)) and (loop or phase != "only forward"):
    return phase, "what scans stack and read back, copies"
  if phase == "only forward" and not path:
    return "elsewhere", "zeros and copies before loops"
  if phase == "only forward":
    return "elsewhere", "optimizer, rewards and the rest"
  return phase, "rest"


def measure(side, text):
  """Returns seconds of a step, of one that is traced, and of its parts.

  Args:
    side: of `jax_loop`, compiled.
    text: that it was compiled to.
  """
  import jax

  known = parts(hlo.parse(text))
  # Without the trace, which slows a step: the reader sees by how much. It also
  # runs the step twice, so the traced one is warm.
  seconds = sides.median(side.step, 1)
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # events of Python would slow it further
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      side.step()
    found = tracing.spans(folder, re.match(r"HloModule ([^\s,]+)", text)[1])
  # Loops and calls are traced too, and would count what is in them twice.
  found = [(a, b, known[name]) for a, b, name in found if name in known]
  traced = max(end for _, end, _ in found) - min(start for start, *_ in found)
  idle = "elsewhere", "idle or untraced"
  rows = [
    {"group": group, "part": part, "seconds": value}
    for (group, part), value in tracing.shares(found, idle).items()
  ]
  rows.sort(key=lambda row: (GROUPS.index(row["group"]), -row["seconds"]))
  return {"seconds": seconds, "traced": traced / 1e9, "parts": rows}


def table(row):
  """Returns a step's parts as text."""
  text = f"{row['size']} {row['task']}: {row['seconds']:.2f} s,"
  lines = [f"{text} traced {row['traced']:.2f} s"]

  def add(name, seconds):
    share = seconds / row["traced"]
    lines.append(f"  {name:<46} {seconds:8.2f} s {share:6.1%}")

  for group in GROUPS:
    inside = [one for one in row["parts"] if one["group"] == group]
    if inside:
      add(group, sum(one["seconds"] for one in inside))
    for one in inside:
      add(f"  {one['part']}", one["seconds"])
  return "\n".join(lines)


def main():
  """Traces and prints everything."""
  from benchmarks import jax_loop

  name, rows = flags.FLAGS.size, []
  # As `versus_torch` trains small sizes, so that the parts are of its times.
  options = {"dtype": "float32", "remat": "dots"}
  with tempfile.TemporaryDirectory() as folder:
    # In a process of its own: torch's threads and memory end with it.
    sides.apart(workload.save, folder, name)
    for task in flags.FLAGS.task:
      side = jax_loop.build(task, folder, workload.SIZES[name], **options)
      found = measure(side, side.compile().as_text())
      rows.append({"size": name, "task": task} | found)
      print(table(rows[-1]), flush=True)
  sides.write(flags.FLAGS.json, rows)


if __name__ == "__main__":
  flags.DEFINE_enum("size", "40m", list(workload.SIZES), "Size of the models.")
  sides.define_some("task", ["sft", "rl_conditional"], workload.TASKS)
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
