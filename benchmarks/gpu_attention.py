"""Ways to attend on a GPU, at the shapes of an RL step of Janus-Pro-1B.

The part 'attention' of `benchmarks.gpu`: a prompt of five images and eight
answers to it, 16 heads of width 128, bfloat16; seconds of a layer, forwards
alone and with the gradient, and how far results and gradients are from
float32. 'blocks' is what all devices can, 'cuDNN' is `nn.cudnn`. Torch's SDPA
does as `torch_loop`: eight rows of prompt and answer. Last, the decode loop's
attention of one code.
"""

import functools
import time
import traceback

import jax
import jax.numpy as jnp

from benchmarks import gpu_jax
from genrec_jax.nn import attention, cudnn

# Of Janus-Pro-1B: P prompts, K heads, T tokens, G answers of I codes, H wide.
SHAPE = {"p": 1, "kv": 16, "t": 3087, "g": 8, "i": 575, "h": 128}
# For CPUs: odd lengths, so that filling up is gone through as well.
SMALL = {"p": 1, "kv": 3, "t": 33, "g": 2, "i": 7, "h": 8}
HEADS = 2  # that are compared with float32
# Of the decode loop: keys and values that no card's cache holds, and codes in
# one program, as launches of one would be timed.
LAYERS, CODES = 4, 50


def guarded(name, say, function):
  """Says what a function finds, or why it failed."""
  try:
    say(name, **function())
  except Exception:
    # One way's failure must not cost the others.
    say(name, failed=traceback.format_exc(limit=-3)[-1200:])


def timed(program, repeats=10):
  """Returns the least seconds of a compiled program."""
  # Loads kernels, which is not counted.
  jax.block_until_ready(program.run())
  found = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(program.run())
    found.append(time.perf_counter() - start)
  return min(found)


class Program:
  """A jitted function with its arguments, as `gpu_jax.compile_all` takes it."""

  def __init__(self, name, function, args, precision=None, **options):
    """Takes what `jax.default_matmul_precision` and `jax.jit` take, too."""
    self.name, self.args, self.precision = name, args, precision
    self.function, self.compiled = jax.jit(function, **options), None

  def lower(self):
    """Traces it."""
    with jax.default_matmul_precision(self.precision):
      return self.function.lower(*self.args)

  def run(self):
    """Returns the results."""
    return self.compiled(*self.args)


def forward(attend, q, k, v, mask, _):
  """Attends; its arguments are those of `backward`."""
  return attend(q, k, v, mask)


def backward(attend, q, k, v, mask, weights):
  """Returns attention, as training needs it, and the gradient of a product."""
  out, pull = jax.vjp(lambda *x: attend(*x, mask), q, k, v)
  return out, *pull(weights)


def inputs(shape):
  """Returns random q, k, v, a mask and weights of the result, bfloat16."""
  p, kv, t, h = (shape[name] for name in ("p", "kv", "t", "h"))
  # N = T + G I: a prompt, and behind it its answers.
  n = t + shape["g"] * shape["i"]
  keys = jax.random.split(jax.random.key(0), 4)
  # [P, K, 1, R, N, H], as `attend_shared` takes them.
  wide = (p, kv, 1, 1, n, h)
  q, weights = (jax.random.normal(k, wide, jnp.bfloat16) for k in keys[:2])
  k, v = (
    jax.random.normal(x, (p, kv, 1, n, h), jnp.bfloat16) for x in keys[2:]
  )
  mask = jnp.arange(t)[None] >= 5 * jnp.ones((p, 1), int)  # left padding
  # What padding attends to is read by no one, so no gradient comes from there;
  # ways differ in what it is.
  weights *= _real(mask, n)[:, None, None, None]
  return q, k, v, mask, weights


def _real(mask, length):
  """Returns [P, N, 1], False = padding, of a mask of prompts [P, T]."""
  fill = ((0, 0), (0, length - mask.shape[1]))
  return jnp.pad(mask, fill, constant_values=True)[..., None]


def programs_of(ways, shape):
  """Returns way -> programs forwards and backwards, and float32's backwards.

  Heads have nothing to do with one another: those of `HEADS` tell the error.
  Float32's products are not tuned, which takes longer than all else.
  """
  given = inputs(shape)
  programs = {
    name: {
      kind.__name__: Program(
        f"{name}, {kind.__name__}", functools.partial(kind, attend), given
      )
      for kind in (forward, backward)
    }
    for name, attend in ways.items()
  }
  # The very same values in float32: rounding of inputs is no error.
  few = [
    x if x.dtype == bool else x[:, :HEADS].astype(jnp.float32) for x in given
  ]
  exact = Program(
    "float32",
    functools.partial(backward, ways["blocks"]),
    few,
    # Else GPUs would round products of float32 to TF32.
    precision="highest",
    compiler_options={"xla_gpu_autotune_level": 0},
  )
  return programs, exact


def errors(program, exact):
  """Returns how far results and gradients of a program are from float32's."""
  mask, weights = exact.args[3:]
  real = _real(mask, weights.shape[-2])[:, None]  # [P, 1, N, 1]

  def rows(x):
    """Returns [P, K, N, H], padding's rows 0."""
    p, kv, *_, n, h = x.shape
    return x.reshape(p, kv, n, h).astype(jnp.float32) * real

  # In the order in which `backward` returns them.
  names = ("out", "dq", "dk", "dv")
  found = {}
  for name, x, y in zip(names, program.run(), exact.run(), strict=True):
    x, y = rows(x[:, :HEADS]), rows(y)
    # Relative, of all numbers together.
    found[f"error of {name}"] = float(
      jnp.linalg.norm(x - y) / jnp.linalg.norm(y)
    )
  return found


def decoding(shape):
  """Returns one code's attention as the decode loop has it, `CODES` times."""
  p, kv, t, g, i, h = (shape[n] for n in ("p", "kv", "t", "g", "i", "h"))
  p *= 2  # both branches
  normal = functools.partial(jax.random.normal, jax.random.key(0))
  # Keys and values of each layer, the answers' cache full.
  own = [normal((p, kv, g, i, h), jnp.bfloat16) for _ in range(2 * LAYERS)]
  # Transposed, as the decode loop keeps a prefix's keys.
  keys = [normal((p, kv, h, t), jnp.bfloat16) for _ in range(LAYERS)]
  values = [normal((p, kv, t, h), jnp.bfloat16) for _ in range(LAYERS)]
  # No padding: every token of the prompt is read.
  seen = jnp.ones((p, t), bool)
  q = normal((p, kv, g, 1, 1, h), jnp.bfloat16)

  def run(q, own, keys, values):
    def code(_, q):
      for n in range(LAYERS):
        # Each layer's reads depend on the last: none can be left out.
        prefix = keys[n], values[n], seen
        q = attention.attend(q, own[2 * n], own[2 * n + 1], prefix=prefix)
      return q

    return jax.lax.fori_loop(0, CODES, code, q)

  return Program("decode, a layer and code", run, (q, own, keys, values))


def decode_rates(program):
  """Returns the seconds of a layer and code, and the rate of its reads."""
  seconds = timed(program, repeats=5) / CODES / LAYERS
  # Keys and values of a layer, each read once.
  _, *arrays = program.args
  nbytes = sum(x.nbytes for held in arrays for x in held) / LAYERS
  return {"seconds": seconds, "GB/s": nbytes / seconds / 1e9}


def torch_sdpa(shape, say):
  """Times torch's attention of the same pairs, prompts repeated."""
  import torch
  import torch.nn.functional as F

  def measure():
    # [P G, K, T + I, H]: a row for each answer, with its prompt.
    wide = (shape["p"] * shape["g"], shape["kv"], shape["t"] + shape["i"])
    q, k, v, weights = (
      torch.randn((*wide, shape["h"]), device="cuda", dtype=torch.bfloat16)
      for _ in range(4)
    )
    for x in (q, k, v):
      x.requires_grad_(True)
    found = {}
    for name in ("forward", "backward"):
      seconds = []
      # The first chooses a kernel; the least of all counts.
      for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if name == "backward":
          # Gradients add up in place, which changes no time.
          out.backward(weights)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
      found[name] = min(seconds)
    return found

  guarded("torch SDPA, prompts repeated", say, measure)


def run(device, say, left):
  """Measures all; see `gpu.part`.

  Compiling takes far longer than running, so all is compiled at once, and what
  is ready is measured; each figure is said as soon as it is known.
  """
  shape = SMALL if device == "cpu" else SHAPE

  def in_blocks(q, k, v, mask):
    return attention._shared_in_blocks(q, k, v, mask, shape["g"])

  def by_cudnn(q, k, v, mask):
    # Answers have no padding: only the prompt's mask is given.
    real = _real(mask, q.shape[-2])[..., 0]
    return cudnn.attend_shared(q, k, v, real, shape["t"], shape["g"])

  ways = {"blocks": in_blocks}
  if device != "cpu":
    ways = {"cuDNN": by_cudnn} | ways
  programs, exact = programs_of(ways, shape)
  loop = decoding(shape)
  whole = [one for both in programs.values() for one in both.values()]
  ready = gpu_jax.compile_all([*whole, loop, exact], say, left() - 30)
  for name, both in programs.items():
    for kind, one in both.items():
      if one in ready:
        guarded(name, say, lambda one=one, kind=kind: {kind: timed(one)})
  if loop in ready:
    guarded(loop.name, say, lambda: decode_rates(loop))
  for name, both in programs.items():
    if both["backward"] in ready and exact in ready:
      guarded(name, say, lambda one=both["backward"]: errors(one, exact))
  if device != "cpu":
    torch_sdpa(shape, say)
