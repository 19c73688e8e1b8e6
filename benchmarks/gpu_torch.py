"""Torch's part of `benchmarks.gpu`: the loops as people run them, and tuned.

'plain' is `torch_loop`: transformers' modules, SDPA, a cache that grows.
'tuned' samples by `torch_decode`: a static cache and one CUDA graph a code.
'compiled' has the decoder layers of all else compiled by `torch.compile`.

Letters as in `workload`.
"""

import gc
import time
import traceback

import torch

from benchmarks import torch_decode, torch_loop, workload
from tools.hf_inference import sampling as torch_sampling

GROUPS = (8, 16, 24, 32, 48, 64)  # G, from which the largest that fits is told


def limits(device):
  """Returns the rates of a large copy and of large products of bfloat16."""
  # GPUs: far beyond their caches, so that memory's own rate is measured.
  count, side = (2**24, 512) if device == "cpu" else (2**31, 8192)
  found = {"GB/s": copy_rate(count, device) / 1e9, "tflops": 0.0}
  # Cards differ in which size their libraries are tuned for.
  for length in (side, side // 2):
    rate = product_rate(length, device)
    found["tflops"] = max(found["tflops"], rate / 1e12)
  return found


def copy_rate(count, device):
  """Returns bytes a second, read and written, of copying `count` bytes."""
  source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
  target = torch.empty_like(source)
  # Each byte is read once and written once.
  return 2 * count / best(lambda: target.copy_(source), device, 10)


def product_rate(side, device):
  """Returns operations a second of a product of square matrices."""
  options = {"device": device, "dtype": torch.bfloat16}
  a, b = (torch.randn((side, side), **options) for _ in range(2))
  # A multiplication and an addition for each of side^3 pairs.
  return 2 * side**3 / best(lambda: a @ b, device, 20)


def best(function, device, repeats):
  """Returns the least seconds of a call, of ten at a time on GPUs."""
  # Ten launches follow each other: the host's call is hidden.
  times = 1 if device == "cpu" else 10
  function()
  # What is measured first is the slowest: the least of all counts.
  found = []
  for _ in range(repeats):
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
      function()
    wait(device)
    found.append((time.perf_counter() - start) / times)
  return min(found)


def wait(device):
  """Waits for all that has been launched."""
  if device == "cuda":
    torch.cuda.synchronize()


class Torch:
  """The models, and the tasks as methods that return their figures."""

  def __init__(self, name, device):
    """Makes random models of a `workload.SIZES`."""
    # Here, as sides without torch's models import this module, too.
    import transformers

    from tests.hf import random_janus

    self.size, self.device = workload.SIZES[name], device
    self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
    # The same weights in each run of the part.
    torch.manual_seed(0)
    if name == "1b":
      # On the card at once: the host would take minutes to fill them.
      generator = random_janus.janus_pro_1b(device)
    else:
      generator = random_janus.model(
        text=self.size.text, vision=self.size.vision, vq=self.size.vq
      ).to(device, self.dtype)
    # Filled on the device, as above.
    with torch.device(device):
      clip = transformers.CLIPModel(transformers.CLIPConfig(**self.size.clip))
    self.models = torch_loop.load((generator, clip), device, self.dtype)
    # By shape of the prompts: a recorded graph fits one alone.
    self.decoders = {}

  def timed(self, function, repeats):
    """Returns `seconds` of some calls, and the peak of memory."""
    found = []
    if self.device == "cuda":
      # Else the peak would be that of an earlier task.
      torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
      wait(self.device)
      start = time.perf_counter()
      result = function()
      wait(self.device)
      found.append(time.perf_counter() - start)
    # Steps return metrics, sampling codes, which differ by chance.
    more = result if isinstance(result, dict) else {}
    if self.device == "cuda":
      more = more | {"gigabytes": torch.cuda.max_memory_allocated() / 1e9}
    return {"seconds": found} | more

  def sample(self, prompts, tuned):
    """Samples an image for each of some prompts of text."""
    batch, model = self._batch(f"sample_{prompts}"), self.models[0]
    ids, table = batch["ids"].long(), model.get_input_embeddings()
    with torch.no_grad():
      # [P, T, D] each: with the prompt, and without.
      both = table(ids), table(torch_sampling.unconditional_ids(model, ids))
    sample = self._decode if tuned else torch_loop.sample_codes
    return self.timed(lambda: sample(model, *both), 3 if tuned else 1)

  def rollout(self, tuned):
    """Samples G images after a prompt of five."""
    batch, model = self._batch("rl_guided"), self.models[0]
    with torch.no_grad():
      # Once, not for each of the samples that repeat the prompt.
      features = torch_loop.image_features(model, batch)
      both = torch_loop.embed(model, batch["ids"].long(), features)
      # [G, T, D] each, as the peers repeat it.
      both = [x.repeat_interleave(workload.SAMPLES, 0) for x in both]
    sample = self._decode if tuned else torch_loop.sample_codes
    return self.timed(lambda: sample(model, *both), 3 if tuned else 1)

  def sft(self, rows=2):
    """Takes supervised steps."""
    options = {"device": self.device, "dtype": self.dtype}
    batch = workload.batch_of("sft", self.size)
    side = torch_loop.SFT(self.models, batch, rows=rows, **options)
    return {"rows": rows} | self.timed(side.step, 4)

  def rl(self, guided, rows):
    """Returns a side of the RL step."""
    options = {"device": self.device, "dtype": self.dtype, "rows": rows}
    batch = workload.batch_of("rl_guided", self.size)
    return torch_loop.RL(self.models, batch, guided=guided, **options)

  def rl_step(self, guided, tuned, most_rows=4):
    """Takes RL steps, with as many samples at a time as fit."""
    rows = most_rows
    while True:
      try:
        side = self.rl(guided, rows)
        if tuned:
          # Only how codes are sampled differs from the plain step.
          side.sample = self._decode
        found = self.timed(side.step, 3 if tuned else 1)
        # Most rows that fit are fastest: fewer passes over the weights.
        return {"rows": rows} | found
      except torch.OutOfMemoryError:
        # What failed holds gigabytes, which the next try needs.
        side = None
        self.free()
        if rows == 1:
          raise
        # Halved until it fits; one row that does not is an error.
        rows //= 2

  def compile(self):
    """Compiles the layers of passes over samples; decoding reads parts."""
    for layer in self.models[0].model.language_model.layers:
      layer.compile(dynamic=False)
    return {}

  def largest_group(self):
    """Returns the largest G of `GROUPS` whose sampling fits."""
    found = 0
    batch, model = self._batch("rl_guided"), self.models[0]
    for samples in GROUPS:
      self.free()
      try:
        with torch.no_grad():
          features = torch_loop.image_features(model, batch)
          both = torch_loop.embed(model, batch["ids"].long(), features)
          both = torch.cat([x.repeat_interleave(samples, 0) for x in both])
          decoder = torch_decode.Decoder(model, *both.shape[:2])
          # Alone: it takes the most, and the cache is there.
          decoder.prefill(both)
      except torch.OutOfMemoryError:
        break
      found = samples
    # Freed before the next task asks for room.
    decoder = both = None
    return {"samples": found}

  def free(self):
    """Gives back what no object holds any more."""
    self.decoders.clear()
    for parameter in self.models[0].parameters():
      parameter.grad = None
    # As loaded: a step chooses what it trains.
    self.models[0].requires_grad_(False)
    # Cycles of autograd hold memory until then.
    gc.collect()
    if self.device == "cuda":
      torch.cuda.empty_cache()

  def _batch(self, task):
    batch = workload.batch_of(task, self.size)
    return torch_loop.on_device(batch, self.device)

  def _decode(self, model, conditional, unconditional):
    # [2 P, T, D]: the two branches are rows of one pass.
    both = torch.cat([conditional, unconditional])
    key = tuple(both.shape)
    if key not in self.decoders:
      self.decoders.clear()  # a cache is gigabytes
      self.decoders[key] = torch_decode.Decoder(model, *both.shape[:2])
    return self.decoders[key].sample(both)


def tasks(side):
  """Returns the tasks of a side, most telling first: name -> function."""
  return {
    "rollout tuned": lambda: side.rollout(True),
    "rl_conditional tuned": lambda: side.rl_step(False, True),
    "sft plain": side.sft,
    "rl_guided tuned": lambda: side.rl_step(True, True, 2),
    "sample_1 tuned": lambda: side.sample(1, True),
    "sample_8 tuned": lambda: side.sample(8, True),
    "rl_conditional plain": lambda: side.rl_step(False, False),
    "largest G": side.largest_group,
    "sample_8 plain": lambda: side.sample(8, False),
    # All that follow it are compiled.
    "compile": side.compile,
    "rl_conditional tuned, compiled": lambda: side.rl_step(False, True),
    "sft compiled": side.sft,
    "rl_guided tuned, compiled": lambda: side.rl_step(True, True, 2),
  }


def run(name, device, say, left):
  """Measures all; see `gpu.part`.

  Args:
    name: of the size.
    device: of torch.
    say: takes a task and its figures.
    left: returns the seconds that are left.
  """
  start = time.perf_counter()
  side = Torch(name, device)
  say("models", seconds=[time.perf_counter() - start])
  for task, function in tasks(side).items():
    # Less would be cut off in the middle and tell nothing.
    if left() < 15:
      say(task, failed="no time was left")
      continue
    try:
      say(task, **function())
    except Exception:
      # One task's failure must not cost the others.
      say(task, failed=traceback.format_exc(limit=-4)[-1500:])
    side.free()
