"""Limits of a machine, by JAX and by torch, next to the step they bound.

Letters: K matrices of width D and hidden H, R rows.
"""

import functools

from benchmarks import counts, sides, workload

# Bytes that are read in turn. Far more than caches hold: a smaller array would
# measure them, and a model's weights exceed them.
STREAM = 2**29
READING = 2  # rows of a product that is as good as a mere read


def products_limits(size):
  """Returns functions that multiply a layer's matrices, by JAX and by torch.

  Forwards and both backwards, at a training step's number of rows.

  Returns:
    name -> (function to time, operations).
  """
  import jax
  import numpy as np
  import torch

  # The model's own sizes: large square products would set a limit that no step
  # of narrow layers can reach, on any machine.
  rows = workload.batch_of("sft", size)["ids"].size  # P T
  rng = np.random.default_rng(0)
  triples, count = [], 0
  for m, k, n in counts.products(size.text, rows):
    triples += [
      tuple(rng.standard_normal(s, np.float32) for s in shapes)
      # Output [m, n], the input's gradient [m, k] and the weight's [k, n].
      for shapes in (((m, k), (k, n)), ((m, n), (n, k)), ((k, m), (m, n)))
    ]
    count += 6 * m * k * n
  placed = jax.device_put(triples)
  multiply = jax.jit(lambda a, b: a @ b)
  # Views of numpy's arrays: torch's side takes no memory of its own.
  held = [tuple(map(torch.from_numpy, pair)) for pair in triples]

  def by_jax():
    # One wait for all: a step does not wait between products either.
    jax.block_until_ready([multiply(*pair) for pair in placed])

  def by_torch():
    for pair in held:
      torch.mm(*pair)

  return {
    "products, JAX": (by_jax, count),
    "products, torch": (by_torch, count),
  }


def reading_limits(size, rows):
  """Returns functions that read `STREAM` bytes, by JAX and by torch.

  They sum all, or multiply them, cut into matrices of the MLP, with few rows.

  Args:
    size: of the model.
    rows: numbers of rows.

  Returns:
    name -> (function to time, bytes).
  """
  import jax
  import jax.numpy as jnp
  import numpy as np
  import torch

  width, hidden = size.text["hidden_size"], size.text["intermediate_size"]
  count = STREAM // (4 * width * hidden) + 1
  rng = np.random.default_rng(0)
  kernels = rng.standard_normal((count, width, hidden), np.float32)  # [K, D, H]
  # One array to sum, and K to multiply: slices of one would be copied first.
  placed = jax.device_put(kernels), jax.device_put(list(kernels))
  held = torch.from_numpy(kernels)
  # [K, D]: what is written is a small part of what is read.
  total = jax.jit(lambda kernels: jnp.sum(kernels, -1))
  multiply = jax.jit(lambda x, kernels: [x @ kernel for kernel in kernels])

  def by_jax(x):
    jax.block_until_ready(multiply(x, placed[1]))

  def by_torch(x):
    for kernel in held:
      torch.mm(x, kernel)

  found = {
    "sum, JAX": lambda: jax.block_until_ready(total(placed[0])),
    "sum, torch": lambda: held.sum(-1),
  }
  for number in rows:
    x = rng.standard_normal((number, width), np.float32)  # [R, D]
    for who, function, given in (
      ("JAX", by_jax, jax.device_put(x)),
      ("torch", by_torch, torch.from_numpy(x)),
    ):
      name = f"times {number} rows, {who}"
      found[name] = functools.partial(function, given)
  # Weights alone: the rows are few, and stay in caches.
  return {name: (one, kernels.nbytes) for name, one in found.items()}


def sibling(step, limits, repeats):
  """Times a step between two measurements of limits.

  Whatever the machine's clock does, the step is held to what was possible just
  before or just after it, whichever is faster.

  Args:
    step: function to time.
    limits: name -> (function to time, what it moves or computes).
    repeats: of each measurement.

  Returns:
    Its median seconds, and name -> rate a second.
  """

  def rates():
    return {
      name: work / sides.median(function, repeats)
      for name, (function, work) in limits.items()
    }

  # Just before and just after: clocks and other jobs change within minutes.
  before = rates()
  seconds = sides.median(step, repeats)
  after = rates()
  # The slower one would let the step look better than it is.
  return seconds, {name: max(before[name], after[name]) for name in limits}


def best(rates, *starts):
  """Returns the fastest of the rates whose names start with one of these."""
  return max(rate for name, rate in rates.items() if name.startswith(starts))


def memory_rates(rates, rows):
  """Returns the machine's rate of reading, and that of products of `rows`."""
  # Its own products count, too: a step is never held to less than they reach.
  of_rows = best(rates, f"times {rows} rows")
  return max(best(rates, "sum", f"times {READING} rows"), of_rows), of_rows
