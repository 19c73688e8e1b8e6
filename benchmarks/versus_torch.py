r"""Speed and memory of this project next to transformers and torch.

    python -m benchmarks.versus_torch [--size=40m,200m] [--task=rl_guided]
    python -m benchmarks.versus_torch --size=1b --device=cuda

Both sides load the same random weights and take turns; `torch_loop` says what
torch does. Figures are medians; ratios above 1 mean that this project is
faster, or needs less. Tasks: images from prompts of text, one and eight at a
time; a GRPO step on a prompt of five images, its loss made of conditional and
of guided probabilities; a supervised step on two such prompts.

Memory on CPUs is what a process holds at the peak of a run. On GPUs it is what
its arrays took on the device at the peak since it started, so loading counts,
on both sides. There both compute in bfloat16 and train float32 weights; frozen
weights are bfloat16 in torch and float32 in this project.
"""

import functools
import os
import tempfile

from absl import flags

from benchmarks import sides, workload
from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli

# What either side keeps for its backward pass: the fastest that fits. Torch
# takes this many samples at a time; on GPUs, where activations are the limit,
# both compute them again.
ROWS = {"40m": 4, "200m": 2, "1b": 1}
REMAT = {"40m": "dots", "200m": "dots", "1b": "full"}


def build_torch(task, folder, size, device, threads, rows):
  """Returns torch's side of a task; see `sides.Side` and `torch_loop.RL`."""
  # Here, not at the top: the processes of both sides import this module.
  import torch

  from benchmarks import torch_loop

  torch.set_num_threads(threads)
  torch.manual_seed(0)
  dtype = torch.float32 if device == "cpu" else torch.bfloat16
  batch = workload.batch_of(task, size)
  options = {"device": device, "dtype": dtype}
  if task.startswith("sample_"):
    model, _ = torch_loop.load(folder, **options)
    batch = torch_loop.on_device(batch, device)
    run = functools.partial(torch_loop.generate, model, batch)
  elif task == "sft":
    run = torch_loop.SFT(folder, batch, rows=rows, **options).step
  else:
    guided = task == "rl_guided"
    run = torch_loop.RL(folder, batch, guided=guided, rows=rows, **options).step
  if device == "cpu":  # torch returns when it has computed
    return lambda: _numbers(run()), None

  def settled():
    result = _numbers(run())
    # CUDA works on after the call has returned.
    torch.cuda.synchronize()
    return result

  # Of arrays. What an allocator reserves, and nvidia-smi shows, includes free
  # blocks, on both sides.
  return settled, torch.cuda.max_memory_allocated


def build_jax(task, folder, size, device, remat):
  """Returns this project's side of a task; see `sides.Side`."""
  # Both are read when JAX is imported or first used.
  os.environ["JAX_PLATFORMS"] = device
  # On a GPU, torch's side needs room next to this one.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  import jax

  from benchmarks import jax_loop

  dtype = "float32" if device == "cpu" else "bfloat16"
  side = jax_loop.build(task, folder, size, dtype=dtype, remat=remat)
  peak = None
  if device != "cpu":
    memory = jax.devices()[0].memory_stats

    # As torch's: of arrays, since the start. JAX cannot reset it.
    def peak():
      return memory()["peak_bytes_in_use"]

  return lambda: _numbers(side.step()), peak


def measure(task, size, folder, *, rows, remat, device, threads, repeats):
  """Returns the figures of one row of the table.

  Raises:
    UserError: the sides' supervised losses differ, so their work does too.
  """
  # The folder's weights, too: both sides read the same files.
  same = {"task": task, "folder": folder, "size": size, "device": device}
  found = sides.compare(
    {
      "torch": (build_torch, same | {"threads": threads, "rows": rows}),
      "jax": (build_jax, same | {"remat": remat}),
    },
    repeats=repeats,
    threads=threads,
  )
  torch, ours = found["torch"], found["jax"]
  if task == "sft":
    losses = torch["first"]["loss"], ours["first"]["loss"]
    # Within rounding, of bfloat16 on GPUs. Besides, one code to predict may be
    # another of two as near, by either tokenizer: it costs some nats more or
    # less. RL's losses cannot be compared, as each side samples its own codes.
    rounding = 1e-3 if device == "cpu" else 3e-2
    other = 3.0 / (workload.WINDOWS * size.codes)
    if abs(losses[0] - losses[1]) > rounding + other:
      raise UserError(
        f"the supervised losses of torch and JAX are {losses}: expected equal"
        " ones, as the work is the same; nothing was compared"
      )
  return {
    "task": task,
    **found,
    "faster": torch["median"] / ours["median"],
    "smaller": torch["bytes"] / ours["bytes"],
  }


def line(row):
  """Returns a row as text."""
  torch, ours = row["torch"], row["jax"]
  return (
    f"{row['size']:<5} {row['task']:<15}"
    f" {torch['median']:8.2f} s {ours['median']:8.2f} s {row['faster']:6.2f}x"
    f" {torch['bytes'] / 1e9:7.2f} GB {ours['bytes'] / 1e9:6.2f} GB"
    f" {row['smaller']:5.2f}x"
  )


def main():
  """Measures and prints everything."""
  options = flags.FLAGS
  print(
    f"{options.threads} threads, {options.device},"
    f" medians of {options.repeats}; G = {workload.SAMPLES},"
    f" guidance {workload.GUIDANCE:g}\n"
    "size  task              torch      here    faster    torch      here"
    "  smaller",
    flush=True,
  )
  rows = []
  for size in options.size:
    with tempfile.TemporaryDirectory() as folder:
      # In a process of its own, so that this one stays small.
      sides.apart(workload.save, folder, size)
      for task in options.task:
        found = measure(
          task,
          workload.SIZES[size],
          folder,
          rows=ROWS[size],
          remat=REMAT[size],
          device=options.device,
          threads=options.threads,
          repeats=options.repeats,
        )
        rows.append({"size": size} | found)
        print(line(rows[-1]), flush=True)
  sides.write(options.json, rows)


def _numbers(result):
  """Returns metrics; None of codes, which each side samples by itself."""
  return result if isinstance(result, dict) else None


if __name__ == "__main__":
  sides.define_some("size", ["40m", "200m"], workload.SIZES)
  sides.define_some("task", list(workload.TASKS), workload.TASKS)
  flags.DEFINE_integer("repeats", 3, "Of each measurement.", 1)
  flags.DEFINE_integer("threads", 2, "Cores of each side.", 1)
  flags.DEFINE_enum("device", "cpu", ["cpu", "cuda"], "Of both sides.")
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
