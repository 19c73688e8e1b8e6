"""Growth of an RL step's cost with samples, history, prompts and width.

    python -m benchmarks.growth [--repeats=3] [--json=FILE]

One quantity at a time is doubled, the others staying: samples G of a prompt,
images of its history, prompts of a batch, width of the model. The slope of a
line through the logarithms is the power by which the cost grows: 1 means in
proportion. The same slope of the compiled operations stands next to it, and for
the largest step the share of its time that sampling takes, and its operations a
second. Time that grows slower than the operations has a part that stays, such
as reading all weights for each code; time that grows faster has outgrown a
cache.
"""

import functools
import tempfile

from absl import flags
import jax
import numpy as np

from benchmarks import jax_loop, sides, workload
from genrec_jax import sampling
from genrec_jax.analysis import hlo, hlo_cost
from genrec_jax.core import tree
from genrec_jax.runtime import cli

# A point of every row below, so that the rows cross there and it is timed once.
START = {"samples": 4, "history": 2, "prompts": 1, "width": 512}
# Three doublings, as a power from one would rest on two noisy times.
GROWN = {
  "samples": (2, 4, 8, 16),
  "history": (1, 2, 4, 8),
  "prompts": (1, 2, 4, 8),
  "width": (128, 256, 512, 1024),
}
# Powers that differ by less count as equal: a machine whose speed varies by a
# fifth can shift a slope over three doublings by 0.1.
MARGIN = 0.15


def size_of(width: int) -> workload.Size:
  """Returns a size of fixed depth: heads and MLP grow with the width."""
  # Vision and reward models stay as small as can be: they are a part that does
  # not grow, and would hide the language model's powers.
  return workload.small(
    width=width,
    mlp_width=11 * width // 4,  # as the sizes of `workload`
    depth=4,
    head_width=64,
    vision=64,
    vision_depth=1,
    clip=64,
    codes=64,
    base_channels=32,
    num_embeddings=1024,
  )


def measure(folder, size, repeats, *, samples, history, prompts):
  """Returns seconds of a step and of its sampling, and its operations."""
  batch = workload.history_batch(size, prompts, history)
  side = jax_loop.RL(
    folder, batch, guided=True, dtype="float32", remat="dots", samples=samples
  )
  # Compiled once for both, so the operations counted are those timed.
  program = hlo.parse(side.compile().as_text())
  step = sides.median(side.step, repeats)
  # Sampling by itself, from the same prompt and weights: inside a step there is
  # no point at which to stop a clock.
  sample = jax.jit(
    functools.partial(
      sampling.sample_images,
      side.model,
      sampling=sampling.Sampling(num_samples=samples, **jax_loop.SAMPLE),
    )
  )
  params = tree.merge(side.state.params, side.frozen["generator_rest"])
  inputs = params, side.batch.prompt, jax.random.key(0)
  # JAX returns before it has computed; without the wait this times the call.
  sampling_seconds = sides.median(
    lambda: jax.block_until_ready(sample(*inputs)), repeats
  )
  flops = hlo_cost.flops(program)
  return {"seconds": step, "sampling": sampling_seconds, "flops": flops}


def slope(sizes, values) -> float:
  """Returns the power of `sizes` by which `values` grow."""
  # Least squares over all points, as each single ratio is of two noisy times.
  return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def fit(name, sizes, found):
  """Returns a row: the powers, and figures of the largest step."""
  seconds, flops = ([one[k] for one in found] for k in ("seconds", "flops"))
  powers = {"time": slope(sizes, seconds), "operations": slope(sizes, flops)}
  # Of the largest, where fixed costs weigh least.
  share = found[-1]["sampling"] / seconds[-1]
  return {
    "grown": name,
    "sizes": sizes,
    "found": found,
    "powers": powers,
    "sampling": share,
    "rate": flops[-1] / seconds[-1],
    "bound": bound(powers["time"], powers["operations"], share),
  }


def line(row) -> str:
  """Returns a row as text."""
  times = " ".join(f"{one['seconds']:7.2f}" for one in row["found"])
  powers = row["powers"]
  return (
    f"{row['grown']:<8} {', '.join(map(str, row['sizes'])):<20} {times} s"
    f"  {powers['time']:5.2f} {powers['operations']:5.2f}"
    f" {row['sampling']:6.0%} {row['rate'] / 1e9:8.1f} GFLOP/s"
    f"  {row['bound']}"
  )


def bound(time: float, operations: float, sampling_share: float) -> str:
  """Returns in words what bounds a step.

  Args:
    time: power by which its seconds grow.
    operations: power by which its operations grow.
    sampling_share: share of the largest step's time that sampling takes.
  """
  if time < operations - MARGIN:
    return "a part that stays"
  if time > operations + MARGIN:
    return "memory: more than the caches hold"
  return "memory, code by code" if sampling_share > 0.5 else "operations"


def main():
  """Measures and prints everything."""
  print(
    "an RL step, guided; else"
    f" {', '.join(f'{name} {value}' for name, value in START.items())}\n"
    "what     sizes                seconds of each                   "
    " time   ops sampling of largest         bounded by",
    flush=True,
  )
  rows, done = [], {}
  for name, sizes in GROWN.items():
    found = []
    for value in sizes:
      options = START | {name: value}
      key = tuple(options.values())
      if key not in done:
        size = size_of(options.pop("width"))  # the rest are of `measure`
        with tempfile.TemporaryDirectory() as folder:
          workload.save(folder, size)
          done[key] = measure(folder, size, flags.FLAGS.repeats, **options)
      found.append(done[key])
    rows.append(fit(name, sizes, found))
    print(line(rows[-1]), flush=True)
  sides.write(flags.FLAGS.json, rows)


if __name__ == "__main__":
  flags.DEFINE_integer("repeats", 3, "Of each measurement.", 1)
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
