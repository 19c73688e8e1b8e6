"""The part of `benchmarks.gpu` that is this project.

Programs are compiled from shapes, several at a time, as one alone takes a
minute; then each runs on random weights that the device makes.
"""

import concurrent.futures
import tempfile
import time
import traceback
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import counts, jax_loop, workload
from genrec_jax.analysis import tracing
from genrec_jax.core import sharding, tree
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import janus_config

# What training keeps for its backward pass: the fastest that fits 80 GB.
REMAT = {"sft": "none", "rl_conditional": "none", "rl_guided": "dots"}
PAD = 2  # of the tokenizer of `workload`
# Behind a task: attention in blocks, as on CPUs, not by a kernel of the device.
BLOCKS = " in blocks"


def models(size, dtype, remat):
  """Returns the generator and the CLIP of a `workload.Size`."""
  generator = janus_config.config_from_hf(
    {
      "model_type": "janus",
      "text_config": size.text,
      "vision_config": size.vision,
      "vq_config": size.vq,
      "image_token_id": workload.IMAGE,
      "tie_word_embeddings": False,
    },
    bos_id=workload.BOS,
    pad_id=PAD,
    boi_id=workload.BOI,
  )
  reward = hf_clip.config_from_hf({"model_type": "clip", **size.clip})
  return generator.with_compute(dtype=dtype, remat=remat), reward


def random_params(model, key):
  """Returns float32 parameters that keep activations of order one."""

  def make(path, leaf):
    name = path.rsplit("/", 1)[-1]
    if name == "scale" or leaf.ndim < 2:
      return jnp.full(leaf.shape, name == "scale", jnp.float32)
    # Of a convolution [h, w, in, out], or a stack of matrices [L, in, out].
    *window, inputs, _ = leaf.shape
    if leaf.ndim == 4:
      inputs *= window[0] * window[1]
    if name == "embedding":  # rows that are looked up
      inputs = leaf.shape[-1]
    return jax.random.normal(key, leaf.shape) * inputs**-0.5

  flat = tree.flatten(jax.eval_shape(model.init, key))
  return tree.unflatten({path: make(path, leaf) for path, leaf in flat.items()})


class Program:
  """A jitted function, the shapes of its arguments, and what became of it."""

  def __init__(self, task, size, dtype):
    """Lays it out, without any array.

    Args:
      task: one of `gpu.TASKS`, with or without `BLOCKS` behind it.
      size: of the models.
      dtype: that computes.
    """
    self.name = task
    self.task = task = task.removesuffix(BLOCKS)
    self.model, self.clip = models(size, dtype, REMAT.get(task, "none"))
    source = "rl_guided" if task == "rollout" else task
    arrays = workload.batch_of(source, size)
    self.batch = jax.tree.map(jnp.asarray, jax_loop.batch_of(arrays))
    key = jax.random.key(0)
    params, reads = (
      jax.eval_shape(one.init, key) for one in (self.model, self.clip)
    )
    if task == "sft":
      self.run = jax_loop.sft_step(self.model)
      self.inputs = lambda params, _: jax_loop.sft_inputs(self.model, params)
    elif task.startswith("rl_"):
      guided = task == "rl_guided"
      self.run = jax_loop.rl_step(self.model, self.clip, guided=guided)
      self.inputs = lambda *both: jax_loop.rl_inputs(self.model, *both)
    else:
      self.samples = workload.SAMPLES if task == "rollout" else 1  # G
      self.run = jax_loop.sample_step(self.model, num_samples=self.samples)
      self.inputs = lambda params, _: (params,)
    # Shapes alone: nothing is on the device while programs are compiled.
    shapes = jax.eval_shape(self.inputs, params, reads)
    rest = (self.batch,) if self.trains else (self.batch.prompt, key)
    self.shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (*shapes, *rest)
    )

  @property
  def trains(self):
    """Whether it is a step: (state, frozen, batch) -> (state, metrics)."""
    return self.task == "sft" or self.task.startswith("rl_")

  def lower(self):
    """Traces it; returns what `compile` takes to a program."""
    if self.name == self.task:
      return self.run.lower(*self.shapes)
    with mock.patch.object(sharding, "platform", return_value="cpu"):
      return self.run.lower(*self.shapes)


def planned_bytes(compiled):
  """Returns a program's memory on the device by the compiler, at the peak."""
  found = compiled.memory_analysis()
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
  )


def compile_all(programs, say, seconds):
  """Compiles programs at the same time; returns those that are ready.

  Args:
    programs: to be compiled: each has a `name` and a `lower`, and gets what is
      `compiled`.
    say: takes a task and what it took, or why it failed.
    seconds: to wait at most; the rest goes on for nobody.
  """
  # Not a `with`, which would wait for all.
  pool, waiting, done = concurrent.futures.ThreadPoolExecutor(16), {}, []
  until = time.perf_counter() + seconds
  for program in programs:
    start = time.perf_counter()
    try:
      lowered = program.lower()
    except Exception:
      say(program.name, failed=traceback.format_exc(limit=-3))
      continue
    traced = time.perf_counter() - start
    job = pool.submit(lowered.compile)
    waiting[job] = program, traced
  left = until - time.perf_counter()
  try:
    for job in concurrent.futures.as_completed(waiting, max(left, 0)):
      program, traced = waiting[job]
      try:
        program.compiled = job.result()
      except Exception as error:
        say(program.name, failed=str(error)[:1500])
        continue
      gigabytes = planned_bytes(program.compiled) / 1e9
      say(program.name, traced=traced, gigabytes=gigabytes)
      done.append(program)
  except TimeoutError:
    late = [p.name for job, (p, _) in waiting.items() if not job.done()]
    say("compile", failed=f"not ready in time: {', '.join(late)}")
  return done


def measure(program, size, params, reads, repeats):
  """Times a program.

  Args:
    program: compiled.
    size: of its models.
    params: of the generator, kept.
    reads: parameters of CLIP, kept.
    repeats: of the measurement.

  Returns:
    `seconds` of the first run, which loads kernels, and of each further one;
    what these reach; and some of what is computed.
  """
  if program.trains:
    state, frozen = program.inputs(params, reads)
    state = jax.tree.map(jnp.copy, state)  # its arrays are donated
  seconds = []
  for number in range(repeats + 1):
    start = time.perf_counter()
    if program.trains:
      state, metrics = program.compiled(state, frozen, program.batch)
      jax.block_until_ready((state, metrics))
      found = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    else:
      key = jax.random.key(number)
      rollout = program.compiled(params, program.batch.prompt, key)
      jax.block_until_ready(rollout)
    seconds.append(time.perf_counter() - start)
  if not program.trains:  # that not all are the same
    found = {"codes": len(set(rollout.codes.ravel().tolist()))}
  return {"seconds": seconds, **found, **rates(program, size, min(seconds[1:]))}


def rates(program, size, seconds):
  """Returns the rates that a task of so many seconds reaches."""
  if program.task == "sft":
    work = counts.training_flops(program.model, size, workload.WINDOWS)
    return {"tflops": work / seconds / 1e12}
  if program.trains:
    return {}
  prompts, prefix = program.batch.prompt.ids.shape
  read = counts.decode_bytes(
    program.model,
    size,
    prompts,
    prefix,
    program.samples,
    itemsize=jnp.dtype(program.model.language.dtype).itemsize,
  )
  return {
    "ms a code": 1e3 * seconds / size.codes,
    "GB a code": read / 1e9,
    "GB/s": read * size.codes / seconds / 1e9,
  }


def run(name, device, say, left, tasks):
  """Compiles and measures all, most telling first; see `gpu.part`.

  Args:
    name: of the size.
    device: 'cpu' computes in float32, others in bfloat16.
    say: takes a task and its figures.
    left: returns the seconds that are left.
    tasks: see `Program`.
  """
  size = workload.SIZES[name]
  dtype = "float32" if device == "cpu" else "bfloat16"
  # All at once: compiling takes one core each, and measuring none.
  programs = [Program(task, size, dtype) for task in tasks]
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    # Made while programs are compiled.
    making = pool.submit(_random_models, programs[-1])
    ready = compile_all(programs, say, left() - 60)
    params, reads = making.result()
  for program in sorted(ready, key=programs.index):
    if left() < 10:
      say(program.name, failed="no time was left")
      continue
    try:
      say(program.name, **measure(program, size, params, reads, 3))
      if program.task == "rollout" and device != "cpu":
        say("rollout's kernels", **traced(program, params))
    except Exception:
      say(program.name, failed=traceback.format_exc(limit=-4)[-1500:])


def traced(program, params):
  """Returns where a rollout's time goes: the kernels that take most of it."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      key = jax.random.key(0)
      jax.block_until_ready(program.compiled(params, program.batch.prompt, key))
    found, whole = tracing.kernels(folder)
  largest = sorted(found.items(), key=lambda item: -item[1][0])[:18]
  return {
    "whole": whole,
    "busy": sum(seconds for seconds, _ in found.values()),
    "launches": sum(count for _, count in found.values()),
  } | {
    f"\n  {name}": f"{seconds:.3f} s in {count}"
    for name, (seconds, count) in largest
  }


def _random_models(program):
  key = jax.random.key(0)
  made = random_params(program.model, key), random_params(program.clip, key)
  return jax.block_until_ready(made)
