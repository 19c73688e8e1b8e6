"""Share of this machine's own speed that training and decoding reach.

    python -m benchmarks.roofline [--size=40m,200m] [--json=FILE]

What the machine can do is measured before and after each of them, by JAX and by
torch, and the fastest is the limit: for operations, products of matrices with
the model's own sizes; for memory, reading more than any cache holds, to sum it
or to multiply it with two rows. Products with as many rows as are sampled at
once may be slower than that; their rate stands next to the limit, to show which
part of the distance is theirs.

Training is counted in the operations that the model needs, two for each weight
and token forwards and four backwards, and attention; what is computed again
counts nothing. Decoding is counted in bytes that it must read: each weight once
a token, the prefix and what is written of the answers. An RL step is both: the
time that its operations and its bytes take at the limits is the least that it
could.
"""

import os
import tempfile

from absl import flags

from benchmarks import counts, limits, sides, workload
from genrec_jax.runtime import cli

# Of guided RL steps there is no row: `counts.rl_flops` is of conditional ones.
TASKS = ("sft", "sample_1", "sample_8", "rl_conditional")


def training_row(side, size, repeats):
  """Returns how close a supervised step gets to the rate of products."""
  seconds, rates = limits.sibling(
    side.step, limits.products_limits(size), repeats
  )
  # Needed operations, not compiled ones: to compute more is no achievement.
  flops = counts.training_flops(side.model, size, workload.WINDOWS)
  return {
    "what": f"SFT step of {workload.WINDOWS} windows",
    "seconds": seconds,
    "rate": flops / seconds,
    "unit": "GFLOP/s",
    "limit": limits.best(rates, "products"),
    "share": flops / seconds / limits.best(rates, "products"),
    "rates": rates,
  }


def sampling_row(side, size, prompts, repeats):
  """Returns how close sampling gets to the rate of reading memory."""
  rows = 2 * prompts  # each with its unconditional twin
  # A set, as one prompt with its twin makes the two rows of a mere read.
  needed = limits.reading_limits(size, sorted({limits.READING, rows}))
  seconds, rates = limits.sibling(side.step, needed, repeats)
  moved = counts.decode_bytes(side.model, size, prompts, workload.TEXT)
  rate = moved * side.model.image_tokens / seconds  # bytes of all codes
  limit, of_rows = limits.memory_rates(rates, rows)
  return {
    "what": f"{prompts} image{'s' * (prompts > 1)} at a time",
    "seconds": seconds,
    "rate": rate,
    "unit": "GB/s",
    "limit": limit,
    "share": rate / limit,
    "rows": rows,
    "share_of_products": rate / of_rows,
    "rates": rates,
  }


def rl_row(side, size, repeats):
  """Returns the least time that an RL step could take, and its own.

  `least` is at the rate of products and the rate at which memory is read;
  `least_of_products` has the rate of products with as many rows as are sampled
  at once in place of the latter.
  """
  rows = 2 * workload.SAMPLES
  needed = limits.products_limits(size) | limits.reading_limits(
    size, (limits.READING, rows)
  )
  seconds, rates = limits.sibling(side.step, needed, repeats)
  moved = side.model.image_tokens * counts.decode_bytes(
    side.model, size, 1, counts.prompt_tokens(size), workload.SAMPLES
  )
  computed = counts.rl_flops(side.model, size) / limits.best(rates, "products")
  # Added up, as training waits for all samples. Sampling's operations and the
  # bytes of training are left out, so this is a lower bound.
  least, of_rows = (
    computed + moved / rate for rate in limits.memory_rates(rates, rows)
  )
  return {
    "what": "RL step, conditional",
    "seconds": seconds,
    "least": least,
    "share": least / seconds,
    "rows": rows,
    "least_of_products": of_rows,
    "share_of_products": of_rows / seconds,
    "rates": rates,
  }


def measure(name, folder, repeats):
  """Yields the rows of one size."""
  from benchmarks import jax_loop

  size = workload.SIZES[name]
  for task in TASKS:
    # As `versus_torch` runs these sizes on CPUs.
    side = jax_loop.build(task, folder, size, dtype="float32", remat="dots")
    if task == "sft":
      row = training_row(side, size, repeats)
    elif task.startswith("sample_"):
      row = sampling_row(side, size, int(task.split("_")[1]), repeats)
    else:
      row = rl_row(side, size, repeats)
    del side  # before the next is loaded: memory holds one at a time
    yield {"size": name} | row


def line(row):
  """Returns a row as text: the rate reached, and below it the limits."""
  text = f"{row['size']:<5} {row['what']:<24}{row['seconds']:8.2f} s "
  if "least" in row:
    text += f" at least {row['least']:.2f} s: {row['share']:.0%}"
  else:
    text += f" {row['rate'] / 1e9:8.1f} {row['unit']}"
    text += f" of {row['limit'] / 1e9:.1f}: {row['share']:.0%}"
  # Left out where the rows are those of the limit, and the share the same.
  if row.get("share_of_products", row["share"]) != row["share"]:
    text += f", and {row['share_of_products']:.0%} of what products of"
    text += f" {row['rows']} rows reach"
  rates = (f"{name} {rate / 1e9:.1f}" for name, rate in row["rates"].items())
  return f"{text}\n      {'; '.join(rates)}"


def main():
  """Measures and prints everything."""
  import torch

  # All cores, as XLA takes them.
  torch.set_num_threads(os.cpu_count() or 1)
  options, found = flags.FLAGS, []
  for name in options.size:
    with tempfile.TemporaryDirectory() as folder:
      # In a process of its own: what it held is free before anything is timed.
      sides.apart(workload.save, folder, name)
      for row in measure(name, folder, options.repeats):
        print(line(row), flush=True)
        found.append(row)
  sides.write(options.json, found)


if __name__ == "__main__":
  sides.define_some("size", ["40m", "200m"], workload.SIZES)
  flags.DEFINE_integer("repeats", 3, "Of each measurement.", 1)
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
