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

# Of Janus-Pro-1B: P prompts, K heads, T tokens, G answers of I codes, H wide.
SHAPE = {"p": 1, "kv": 16, "t": 3087, "g": 8, "i": 575, "h": 128}
# For CPUs: odd lengths, so that filling up is gone through as well.
SMALL = {"p": 1, "kv": 2, "t": 33, "g": 2, "i": 7, "h": 8}


def guarded(name, say, function):
  """Says what a function finds, or why it failed."""
  try:
    say(name, **function())
  except Exception:
    # One way's failure must not cost the others.
    say(name, failed=traceback.format_exc(limit=-3)[-1200:])


def timed(function, *args, repeats=10):
  """Returns the least seconds of a compiled function."""
  import jax

  # Compiles and loads, which is not counted.
  jax.block_until_ready(function(*args))
  found = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    found.append(time.perf_counter() - start)
  return min(found)


def both(attend):
  """Returns attention, and attention with the gradient of a product."""
  import jax

  def backward(q, k, v, mask, weights):
    # Both, as training needs the result and the gradient.
    out, pull = jax.vjp(lambda *x: attend(*x, mask), q, k, v)
    return out, *pull(weights)

  # The same arguments as backward, so that they are called alike.
  forward = jax.jit(lambda q, k, v, mask, _: attend(q, k, v, mask))
  return forward, jax.jit(backward)


def inputs(shape):
  """Returns random q, k, v, a mask and weights of the result, bfloat16."""
  import jax
  import jax.numpy as jnp

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
  return q, k, v, mask, weights


def compare(ways, shape, say):
  """Times ways to attend, and compares them with float32."""
  import jax
  import jax.numpy as jnp

  given = inputs(shape)
  # The very same values in float32: rounding of inputs is no error.
  wide = [x if x.dtype == bool else x.astype(jnp.float32) for x in given]
  # Else GPUs would round products of float32 to TF32.
  with jax.default_matmul_precision("highest"):
    _, exact = both(ways["blocks"])
    expected = jax.block_until_ready(exact(*wide))
  # Padding's own states are read by no one.
  real = jnp.concatenate(
    [given[3], jnp.ones((shape["p"], shape["g"] * shape["i"]), bool)], 1
  )[:, None, None, :, None]

  def error(found, wanted):
    # [P, K, 1, N, H], padding's rows set to 0.
    found, wanted = (
      x.reshape(*real.shape[:1], shape["kv"], 1, *x.shape[-2:]) * real
      for x in (found, wanted)
    )
    # Relative, of all numbers together.
    return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))

  for name, attend in ways.items():
    # Bound now: the loop's variable will have moved on.
    def measure(attend=attend):
      forward, backward = both(attend)
      found = {"forward": timed(forward, *given)}
      found["both"] = timed(backward, *given)
      # In the order in which `both` returns them.
      names = ("out", "dq", "dk", "dv")
      results = backward(*given)
      return found | {
        f"error of {name}": error(x.astype(jnp.float32), y)
        for name, x, y in zip(names, results, expected, strict=True)
      }

    guarded(name, say, measure)


def decode(shape, say):
  """Times one code's attention as the decode loop has it, per layer."""
  import jax
  import jax.numpy as jnp

  from genrec_jax.nn import attention

  p, kv, t, g, i, h = (shape[n] for n in ("p", "kv", "t", "g", "i", "h"))
  p, layers = 2 * p, 12  # both branches
  normal = functools.partial(jax.random.normal, jax.random.key(0))
  # Keys and values of each layer, the answers' cache full.
  own = [normal((p, kv, g, i, h), jnp.bfloat16) for _ in range(2 * layers)]
  # Transposed, as the decode loop keeps a prefix's keys.
  keys = [normal((p, kv, h, t), jnp.bfloat16) for _ in range(layers)]
  values = [normal((p, kv, t, h), jnp.bfloat16) for _ in range(layers)]
  # No padding: every token of the prompt is read.
  seen = jnp.ones((p, t), bool)
  q = normal((p, kv, g, 1, 1, h), jnp.bfloat16)

  @jax.jit
  def run(q, own, keys, values):
    def code(_, q):
      for n in range(layers):
        # Each layer's reads depend on the last: none can be left out.
        prefix = keys[n], values[n], seen
        q = attention.attend(q, own[2 * n], own[2 * n + 1], prefix=prefix)
      return q

    return jax.lax.fori_loop(0, 50, code, q)

  def measure():
    # Fifty codes in one program, as launches of one would be timed.
    seconds = timed(run, q, own, keys, values, repeats=5) / 50 / layers
    # Keys and values of two bytes, each read once.
    nbytes = 4 * p * kv * h * (t + g * i)
    return {"seconds": seconds, "GB/s": nbytes / seconds / 1e9}

  guarded("decode, a layer and code", say, measure)


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
    for name in ("forward", "both"):
      seconds = []
      # The first chooses a kernel; the least of all counts.
      for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if name == "both":
          # Gradients add up in place, which changes no time.
          out.backward(weights)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
      found[name] = min(seconds)
    return found

  guarded("torch SDPA, prompts repeated", say, measure)


def run(device, say):
  """Measures all; see `gpu.main`."""
  import jax.numpy as jnp

  from genrec_jax.nn import attention, cudnn

  shape = SMALL if device == "cpu" else SHAPE

  def in_blocks(q, k, v, mask):
    return attention._shared_in_blocks(q, k, v, mask, shape["g"])

  def by_cudnn(q, k, v, mask):
    # Answers have no padding: only the prompt's mask is given.
    fill = ((0, 0), (0, shape["g"] * shape["i"]))
    real = jnp.pad(mask, fill, constant_values=True)
    return cudnn.attend_shared(q, k, v, real, shape["t"], shape["g"])

  ways = {"blocks": in_blocks}
  if device != "cpu":
    ways["cuDNN"] = by_cudnn
  compare(ways, shape, say)
  decode(shape, say)
  if device != "cpu":
    torch_sdpa(shape, say)
