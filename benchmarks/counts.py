"""Operations and bytes that a step of the models needs, counted by hand.

By hand, as a compiled program also has what it computes again and what a mask
throws away: measured against its own operations, waste would look like speed.
Letters as in `workload`.
"""

from benchmarks import workload


def products(text, tokens):
  """Returns the (rows, in, out) of a decoder layer's linear layers."""
  width, hidden = text["hidden_size"], text["intermediate_size"]
  heads = text["num_attention_heads"] * text["head_dim"]
  shared = text["num_key_value_heads"] * text["head_dim"]
  return [
    (tokens, width, heads),  # queries
    (tokens, width, shared),  # keys
    (tokens, width, shared),  # values
    (tokens, heads, width),  # attention's output
    (tokens, width, hidden),  # gate
    (tokens, width, hidden),  # up
    (tokens, hidden, width),  # down
  ]


def training_flops(model, size, windows):
  """Returns the operations of a supervised step, multiply and add apart.

  Of a weight, 2 forwards, 2 for its gradient and 2 for that of what it is
  applied to. The vision tower and the image encoder only go forwards. Causal
  attention sees half of all pairs.
  """
  # The last code is predicted, and never read.
  tokens = prompt_tokens(size) + size.codes - 1
  forward = _language_flops(model, size, tokens, tokens**2 / 2)
  forward += _head_flops(model, size.codes)
  seen = _seen_flops(size, workload.HISTORY)
  # Once forwards and twice backwards; recomputing is the program's own choice.
  return windows * (3 * forward + seen + image_flops(model, 1, "encode"))


def rl_flops(model, size):
  """Returns the operations of an RL step of one prompt, decode loop apart.

  The prompt and its unconditional twin before sampling; policy, forwards and
  backwards, and reference on the prompt and its G answers, conditional; and
  once, what reads the history, decodes the samples and embeds all images for
  the reward.
  """
  prompt, samples = prompt_tokens(size), workload.SAMPLES
  prefix = _language_flops(model, size, prompt, prompt**2 / 2)
  # Pairs of one answer: each code sees the prompt, and half of the codes.
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
    (clip["image_size"] // clip["patch_size"]) ** 2 + 1,  # and the class token
  )
  seen = _seen_flops(size, workload.HISTORY)
  decoded = image_flops(model, samples, "decode")
  # The prefix of two branches; then 3 of the policy and 1 of the reference.
  return 2 * prefix + 4 * (prefix + answers) + seen + decoded + judged


def prompt_tokens(size):
  """Returns T of a prompt of images."""
  return workload.history_batch(size, 1)["ids"].shape[1]


def _language_flops(model, size, tokens, pairs):
  """Of one pass of decoder layers; pairs of a query and a key that it sees."""
  heads = model.language.num_heads * model.language.head_width
  layer = sum(2 * m * k * n for m, k, n in products(size.text, tokens))
  # 4: a multiply and an add, for scores and for the sum of values.
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
  # Four projections and two layers of the MLP; no mask, so tokens^2 pairs.
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

  # XLA's count: convolutions of many sizes make a long formula. From shapes, so
  # that no weights are made for it.
  params = jax.eval_shape(model.tokenizer.init, jax.random.key(0))
  if way == "encode":
    shape = (images, model.image_size, model.image_size, 3)  # [images, h, w, 3]
    given = jax.ShapeDtypeStruct(shape, jnp.float32)
  else:
    side = round(model.image_tokens**0.5)
    given = jax.ShapeDtypeStruct((images, side, side), jnp.int32)
  # For a CPU: other backends count nothing before they compile.
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    lowered = jax.jit(getattr(model.tokenizer, way)).lower(params, given)
  return lowered.cost_analysis()["flops"]


def decode_bytes(model, size, prompts, prefix, samples=1, itemsize=4):
  """Returns the bytes read for a code of each sample of `prompts`.

  `itemsize` is that of what computes: 4 in float32.
  """
  language = model.language
  layer = sum(k * n for _, k, n in products(size.text, 1))
  head = language.width**2 + language.width * model.codebook_size
  aligner = language.width**2
  # Once a code, however many samples there are: they share a product.
  weights = language.num_layers * layer + head + aligner
  # Of one token, keys and values.
  cache = 2 * language.num_layers * language.num_kv_heads * language.head_width
  # Two branches. All samples share the prefix; of an image's own codes half are
  # there on average.
  read = 2 * prompts * (prefix + samples * model.image_tokens / 2)
  return itemsize * (weights + cache * read)
