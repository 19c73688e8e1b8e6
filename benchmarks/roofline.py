"""How much of this machine's own speed training and decoding reach.

    python benchmarks/roofline.py [--size=40m,200m] [--json=FILE]

What the machine can do is measured beside them: products of matrices with the
model's own sizes, by JAX and by torch, and matrices times few rows, larger
together than any cache. Training is counted in the operations that the model
needs, two for each weight and token forwards and four backwards, and attention;
what is computed again counts nothing. Decoding is counted in bytes that it must
read: each weight once a token, the prefix and what is written of the answers.
An RL step is both: the time that its operations and its bytes take at the
machine's best rates is the least that it could.
"""

import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from absl import flags

from benchmarks import sides, workload
from genrec_jax.core import cli

PROMPTS = (1, 8)  # drawn at once, each with its unconditional twin
WINDOWS = 2  # of a training step
STREAM = 2**28  # bytes of weights that are read in turn: more than caches hold


def products(text, tokens):
  """Returns the (rows, in, out) of a decoder layer's linear layers."""
  width, hidden = text["hidden_size"], text["intermediate_size"]
  heads = text["num_attention_heads"] * text["head_dim"]
  shared = text["num_key_value_heads"] * text["head_dim"]
  return [
    (tokens, width, heads),
    (tokens, width, shared),
    (tokens, width, shared),
    (tokens, heads, width),
    (tokens, width, hidden),
    (tokens, width, hidden),
    (tokens, hidden, width),
  ]


def training_flops(model, size, windows):
  """Counts the operations of a supervised step, multiply and add apart.

  Of a weight, 2 forwards, 2 for its gradient and 2 for that of what it is
  applied to. The vision tower and the image encoder only go forwards. Causal
  attention sees half of all pairs.
  """
  tokens = _prompt_tokens(size) + size.codes - 1
  forward = _language_flops(model, size, tokens, tokens**2 / 2)
  forward += _head_flops(model, size.codes)
  seen = _seen_flops(size, workload.HISTORY)
  return windows * (3 * forward + seen + image_flops(model, 1, "encode"))


def rl_flops(model, size):
  """Counts the operations of an RL step of one prompt, but for drawing codes.

  The prompt and its unconditional twin before drawing; policy, there and back,
  and reference on the prompt and its G answers, conditional; and once, what
  sees the history, decodes the samples and embeds all images for the reward.
  """
  prompt, samples = _prompt_tokens(size), workload.SAMPLES
  prefix = _language_flops(model, size, prompt, prompt**2 / 2)
  own = size.codes * prompt + size.codes**2 / 2
  answers = _language_flops(
    model, size, samples * size.codes, samples * own
  ) + _head_flops(model, samples * size.codes)
  clip = size.clip["vision_config"]
  judged = workload.HISTORY + samples + workload.FUTURE
  judged *= _tower_flops(
    clip["hidden_size"],
    clip["intermediate_size"],
    clip["num_hidden_layers"],
    (clip["image_size"] // clip["patch_size"]) ** 2 + 1,
  )
  seen = _seen_flops(size, workload.HISTORY)
  decoded = image_flops(model, samples, "decode")
  return 2 * prefix + 4 * (prefix + answers) + seen + decoded + judged


def _prompt_tokens(size):
  return workload.history_batch(size, 1)["ids"].shape[1]


def _language_flops(model, size, tokens, pairs):
  """Of one pass of decoder layers; pairs of a query and a key that it sees."""
  heads = model.language.num_heads * model.language.head_width
  layer = sum(2 * m * k * n for m, k, n in products(size.text, tokens))
  return model.language.num_layers * (layer + 4 * pairs * heads)


def _head_flops(model, codes):
  width = model.language.width
  return 2 * codes * (width**2 + width * model.codebook_size)


def _seen_flops(size, images):
  vision = size.vision
  width = vision["hidden_size"]
  hidden = int(width * vision["mlp_ratio"])
  depth = vision["num_hidden_layers"]
  return images * _tower_flops(width, hidden, depth, size.codes)


def _tower_flops(width, hidden, depth, tokens):
  """Of one image in a vision transformer."""
  weights = 2 * (4 * width**2 + 2 * width * hidden)
  return depth * tokens * (weights + 4 * tokens * width)


def image_flops(model, images, way):
  """Returns the operations of the image tokenizer, as XLA counts them.

  Args:
    model: a generator.
    images: how many.
    way: 'encode' or 'decode'.
  """
  import jax
  import jax.numpy as jnp

  params = jax.eval_shape(model.tokenizer.init, jax.random.key(0))
  if way == "encode":
    shape = (images, model.image_size, model.image_size, 3)
    given = jax.ShapeDtypeStruct(shape, jnp.float32)
  else:
    side = round(model.image_tokens**0.5)
    given = jax.ShapeDtypeStruct((images, side, side), jnp.int32)
  lowered = jax.jit(getattr(model.tokenizer, way)).lower(params, given)
  return lowered.cost_analysis()["flops"]


def decode_bytes(model, size, prompts, prefix, samples=1):
  """Counts the bytes read for one code of each sample of `prompts`, float32."""
  language = model.language
  layer = sum(k * n for _, k, n in products(size.text, 1))
  head = language.width**2 + language.width * model.codebook_size
  aligner = language.width**2
  weights = language.num_layers * layer + head + aligner
  cache = 2 * language.num_layers * language.num_kv_heads * language.head_width
  read = 2 * prompts * (prefix + samples * model.image_tokens / 2)
  return 4 * (weights + cache * read)


def matmul_rates(size, windows, repeats):
  """Returns operations a second on a layer's products, by JAX and by torch.

  Forwards and both backwards, at a training step's number of rows.
  """
  import jax
  import numpy as np
  import torch

  rows = windows * workload.history_batch(size, 1)["ids"].shape[1]
  rng = np.random.default_rng(0)
  triples, count = [], 0
  for m, k, n in products(size.text, rows):
    triples += [
      tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)
      for shapes in (((m, k), (k, n)), ((m, n), (n, k)), ((k, m), (m, n)))
    ]
    count += 6 * m * k * n
  placed = jax.device_put(triples)
  multiply = jax.jit(lambda a, b: a @ b)
  held = [tuple(map(torch.from_numpy, pair)) for pair in triples]

  def by_jax():
    jax.block_until_ready([multiply(*pair) for pair in placed])

  def by_torch():
    for pair in held:
      torch.mm(*pair)

  return (
    count / sides.median(by_jax, repeats),
    count / sides.median(by_torch, repeats),
  )


def memory_rates(size, rows, repeats):
  """Returns bytes a second of weights times `rows` rows, by JAX and torch.

  As many different matrices of the MLP as make up `STREAM` bytes.
  """
  import jax
  import numpy as np
  import torch

  width, hidden = size.text["hidden_size"], size.text["intermediate_size"]
  count = STREAM // (4 * width * hidden) + 1
  rng = np.random.default_rng(0)
  x = rng.standard_normal((rows, width)).astype(np.float32)
  kernels = [
    rng.standard_normal((width, hidden)).astype(np.float32)
    for _ in range(count)
  ]
  placed, seen = jax.device_put(kernels), jax.device_put(x)
  multiply = jax.jit(lambda x, kernels: [x @ kernel for kernel in kernels])
  held, rows_held = [torch.from_numpy(k) for k in kernels], torch.from_numpy(x)

  def by_jax():
    jax.block_until_ready(multiply(seen, placed))

  def by_torch():
    for kernel in held:
      torch.mm(rows_held, kernel)

  moved = 4 * width * hidden * count
  return (
    moved / sides.median(by_jax, repeats),
    moved / sides.median(by_torch, repeats),
  )


def measure(name, folder, repeats):
  """Returns the rows of one size."""
  from benchmarks import jax_loop

  size = workload.SIZES[name]
  workload.save(folder, name)
  matmul = matmul_rates(size, WINDOWS, repeats)
  rows = [
    {"size": name, "what": f"products, {who}", "rate": rate, "unit": "GFLOP/s"}
    for who, rate in zip(("JAX", "torch"), matmul, strict=True)
  ]
  batch = workload.history_batch(size, WINDOWS)
  side = jax_loop.SFT(folder, batch, dtype="float32", remat="dots")
  seconds = sides.median(side.step, repeats)
  flops = training_flops(side.model, size, WINDOWS)
  del side
  rows.append(
    {
      "size": name,
      "what": f"SFT step of {WINDOWS} windows",
      "seconds": seconds,
      "rate": flops / seconds,
      "unit": "GFLOP/s",
      "limit": max(matmul),
    }
  )
  for prompts in PROMPTS:
    memory = memory_rates(size, 2 * prompts, repeats)
    rows += [
      {
        "size": name,
        "what": f"weights times {2 * prompts} rows, {who}",
        "rate": rate,
        "unit": "GB/s",
      }
      for who, rate in zip(("JAX", "torch"), memory, strict=True)
    ]
    batch = workload.text_batch(size, prompts)
    side = jax_loop.Draw(folder, batch, dtype="float32")
    seconds = sides.median(side.step, repeats)
    moved = decode_bytes(side.model, size, prompts, workload.TEXT)
    moved *= side.model.image_tokens
    del side
    rows.append(
      {
        "size": name,
        "what": f"{prompts} image{'s' * (prompts > 1)} at a time",
        "seconds": seconds,
        "rate": moved / seconds,
        "unit": "GB/s",
        "limit": max(memory),
      }
    )
  # Drawing for RL has the last rows: two branches of G samples.
  side = jax_loop.RL(
    folder,
    workload.history_batch(size, 1),
    guided=False,
    dtype="float32",
    remat="dots",
  )
  drawing = decode_bytes(
    side.model, size, 1, _prompt_tokens(size), workload.SAMPLES
  )
  least = drawing * side.model.image_tokens / max(memory)
  least += rl_flops(side.model, size) / max(matmul)
  rows.append(
    {
      "size": name,
      "what": "RL step, conditional",
      "seconds": sides.median(side.step, repeats),
      "least": least,
    }
  )
  return rows


def line(row):
  """Returns a row as text."""
  text = f"{row['size']:<5} {row['what']:<28}"
  if "least" in row:
    share = row["least"] / row["seconds"]
    text += f" {row['least']:8.2f} s at least {share:5.0%} of its"
    return f"{text} {row['seconds']:8.2f} s"
  text += f" {row['rate'] / 1e9:8.1f}"
  text += f" {row['unit']:<7}"
  if "limit" in row:
    share = row["rate"] / row["limit"]
    text += f" {share:5.0%} of the limit {row['seconds']:8.2f} s"
  return text


def main():
  """Measures and prints everything."""
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  options, found = flags.FLAGS, []
  for name in options.size:
    with tempfile.TemporaryDirectory() as folder:
      rows = measure(name, folder, options.repeats)
    print("\n".join(map(line, rows)), flush=True)
    found += rows
  sides.write(options.json, found)


if __name__ == "__main__":
  flags.DEFINE_list("size", ["40m", "200m"], "Some of 40m, 200m.")
  flags.DEFINE_integer("repeats", 3, "Of each measurement.", 1)
  flags.DEFINE_string("json", "", "File for the figures.")
  cli.run(main)
