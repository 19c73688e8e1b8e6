"""Rebuilds genrec_jax/assets from nothing: the tiny models of the small world.

    python tools/make_tiny.py --out=DIR

Four models are trained in turn on the synthetic world, each from random
weights: CLIP on (image, title), the VQGAN on images, a Janus that draws from a
title and reads an image ('tiny_base', not personalised), and, through
`main.py --config=configs/sft.py`, the Janus fine-tuned on histories
('tiny_sft'). All in bfloat16, in Hugging Face format.
"""

from collections.abc import Callable, Iterator
import functools
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
import transformers

from genrec_jax.core.types import Prompt
from genrec_jax.data import world
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import janus_config, write_model
from genrec_jax.hf.export import export_generator
from genrec_jax.hf.janus_processor import CHAT, JanusProcessor
from genrec_jax.hf.load import load_generator
from genrec_jax.hf.rules import to_hf
from genrec_jax.models import llama, siglip
from genrec_jax.models.clip import Clip, Tower
from genrec_jax.models.janus import Janus
from genrec_jax.models.vqgan import VQGAN
from genrec_jax.runtime import cli

_OUT = cli.path_flag("out", None, "Folder to write to.", required=True)
INSTRUCTIONS = (
  "Draw the next item that this user will like.",
  "Describe the image.",
)
CLIP_TOKENS = {
  "bos_token": "<|startoftext|>",
  "eos_token": "<|endoftext|>",
  "pad_token": "<|pad|>",
}
JANUS_TOKENS = {
  "bos_token": "<｜begin▁of▁sentence｜>",
  "eos_token": "<｜end▁of▁sentence｜>",
  "pad_token": "<｜▁pad▁｜>",
  "image_token": "<image_placeholder>",
  "boi_token": "<begin_of_image>",
  "eoi_token": "<end_of_image>",
  "user_token": "<|User|>",
  "assistant_token": "<|Assistant|>",
}

_SEED = flags.DEFINE_integer("seed", 0, "Seed of every stage.")


def fit(
  loss_fn: Callable,
  params,
  batches: Iterator,
  steps: int,
  *,
  lr: float,
  key: jax.Array,
  name: str,
  project: Callable = lambda params: params,
  weight_decay: float = 0.0,
):
  """Minimises loss_fn(params, batch, key) -> (loss, metrics) with AdamW.

  One-cycle cosine schedule from 0 over lr to 0; `project` maps parameters back
  to where they belong after each update.
  """
  schedule = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, b2=0.98, weight_decay=weight_decay),
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, batch, key):
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, batch, key
    )
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = project(optax.apply_updates(params, updates))
    return params, opt_state, metrics | {"loss": loss}

  params = jax.tree.map(jnp.copy, params)
  opt_state = optimizer.init(params)
  start = time.time()
  for i in range(steps):
    params, opt_state, metrics = step(
      params, opt_state, next(batches), jax.random.fold_in(key, i)
    )
    if i % 100 == 0 or i == steps - 1:
      text = " ".join(f"{k} {float(v):.4f}" for k, v in metrics.items())
      logging.info(
        "%s %d/%d %.0fs %s", name, i, steps, time.time() - start, text
      )
  return params


def epochs(arrays: tuple, batch: int, seed: int) -> Iterator:
  """Yields shuffled batches of rows of the arrays, without end."""
  rng = np.random.default_rng(seed)
  while True:
    order = rng.permutation(len(arrays[0]))
    for start in range(0, len(order) - batch + 1, batch):
      rows = order[start : start + batch]
      yield tuple(array[rows] for array in arrays)


def renders() -> np.ndarray:
  """Returns every item of the world: uint8 [2880, 32, 32, 3]."""
  return world.render(world.attributes(np.arange(world.NUM_ITEMS)))


# --- VQGAN -------------------------------------------------------------------

VQ = VQGAN(
  embed_dim=8,
  num_embeddings=512,
  latent_channels=32,
  # 32 norm groups are fixed by the format: with 32 channels each would be
  # normalised by itself, and plain colours lost. No block beside the
  # resampling keeps it as cheap.
  base_channels=64,
  channel_multiplier=(1, 1, 1, 1),
  num_res_blocks=0,
)


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def spherical_kmeans(points, k: int, rounds: int, seed: int) -> np.ndarray:
  """Clusters unit vectors [n, E] by cosine: unit centres [k, E]."""
  rng = np.random.default_rng(seed)
  centres = points[rng.choice(len(points), k, replace=False)]
  for _ in range(rounds):
    nearest = np.argmax(points @ centres.T, -1)
    sums = np.zeros_like(centres)
    np.add.at(sums, nearest, points)
    empty = np.bincount(nearest, minlength=k) == 0
    # An empty cluster restarts at the points served worst.
    worst = np.argsort(np.max(points @ centres.T, -1))[: empty.sum()]
    sums[empty] = points[worst]
    centres = sums / np.linalg.norm(sums, axis=-1, keepdims=True)
  return centres


def train_vqgan(seed: int, warm_steps: int, steps: int, batch: int = 32):
  """Trains first without the quantiser, then with k-means centres as codes."""
  images = renders()
  key = jax.random.key(seed)
  batches = epochs((images,), batch, seed)

  def pixels_of(images):
    return images.astype(jnp.float32) / 127.5 - 1

  def warm_loss(params, batch, key):
    pixels = pixels_of(batch[0])
    z = _unit(VQ.latents(params, pixels))
    # Noise of about a cell's size spreads the latents for the codes to come.
    z = _unit(z + 0.05 * jax.random.normal(key, z.shape))
    error = jnp.abs(VQ.decode_latents(params, z) - pixels).mean()
    return error, {}

  def loss_fn(params, batch, key):
    del key
    pixels = pixels_of(batch[0])
    z = _unit(VQ.latents(params, pixels))
    codes = VQ.quantize(params, jax.lax.stop_gradient(z))
    entries = VQ.lookup(params, codes)
    commit = jnp.sum((z - jax.lax.stop_gradient(entries)) ** 2, -1).mean()
    codebook = jnp.sum((jax.lax.stop_gradient(z) - entries) ** 2, -1).mean()
    straight = z + jax.lax.stop_gradient(entries - z)
    error = jnp.abs(VQ.decode_latents(params, straight) - pixels).mean()
    loss = error + 0.1 * commit + 0.3 * codebook
    return loss, {"error": error, "commit": commit}

  def project(params):
    book = _unit(params["quantizer"]["embedding"])
    return params | {"quantizer": {"embedding": book}}

  params = fit(
    warm_loss, VQ.init(key), batches, warm_steps, lr=3e-3, key=key, name="vq-ae"
  )
  latents = jax.jit(lambda x: _unit(VQ.latents(params, pixels_of(x))))
  points = np.concatenate([latents(x) for x in np.split(images, 10)])
  points = points.reshape(-1, VQ.embed_dim)
  book = spherical_kmeans(points, VQ.num_embeddings, 20, seed)
  params["quantizer"]["embedding"] = jnp.asarray(book)
  return fit(
    loss_fn,
    params,
    batches,
    steps,
    lr=2e-3,
    key=key,
    name="vq",
    project=project,
  )


def check_vqgan(params) -> float:
  """Returns the share of attributes read right from reconstructions."""
  images = renders()
  redraw = jax.jit(
    lambda x: VQ.decode(
      params, VQ.encode(params, x.astype(jnp.float32) / 127.5 - 1)
    )
  )
  drawn = np.concatenate([redraw(x) for x in np.split(images, 10)])
  drawn = np.clip(np.round((drawn + 1) * 127.5), 0, 255).astype(np.uint8)
  truth = world.attributes(np.arange(world.NUM_ITEMS))
  return (world.read(drawn) == truth).mean(0), drawn


# --- tokenizers and CLIP ------------------------------------------------------


def tokenizer(special: dict[str, str], suffix: str, max_length: int):
  """Trains a byte-level BPE on the world's titles; any text can be encoded.

  Args:
    special: names (as transformers has them, 'bos_token' ...) to tokens.
    suffix: 'eos_token' or '', what to append to each text besides BOS first.
    max_length: tokens of the longest text.
  """
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=512,
    special_tokens=list(special.values()),
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator([*titles(), *INSTRUCTIONS * 100], trainer)
  ends = ["bos_token", "$A", *([suffix] if suffix else [])]
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single=" ".join(special.get(end, end) for end in ends),
    special_tokens=[
      (special[end], model.token_to_id(special[end]))
      for end in ends
      if end in special
    ],
  )
  named = ("bos_token", "eos_token", "pad_token")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=model,
    model_max_length=max_length,
    padding_side="left",
    extra_special_tokens={
      name: token for name, token in special.items() if name not in named
    },
    **{name: token for name, token in special.items() if name in named},
  )


def titles() -> list[str]:
  """Returns the title of every item."""
  return [
    world.title(attrs) for attrs in world.attributes(np.arange(world.NUM_ITEMS))
  ]


def train_clip(tokens, seed: int, steps: int, batch: int = 192):
  """Trains CLIP on (image, title): the symmetric loss of arXiv 2103.00020."""
  clip = Clip(
    vision=Tower(64, 256, 3, 4),
    text=Tower(64, 256, 2, 4),
    projection_dim=32,
    image_size=world.IMAGE_SIZE,
    patch_size=8,
    vocab_size=len(tokens),
    max_position_embeddings=tokens.model_max_length,
    eos_token_id=tokens.eos_token_id,
  )
  encoded = tokens(
    titles(), padding=True, padding_side="right", return_tensors="np"
  )
  ids, mask = encoded["input_ids"], encoded["attention_mask"].astype(bool)
  key = jax.random.key(seed)

  def loss_fn(params, batch, key):
    images, ids, mask = batch
    pixels = images.astype(jnp.float32) / 255
    # Generated pictures carry noise and blur: the judge has to bear both.
    noise, level = jax.random.split(key)
    scale = 0.1 * jax.random.uniform(level, (len(images), 1, 1, 1))
    pixels = jnp.clip(
      pixels + scale * jax.random.normal(noise, pixels.shape), 0, 1
    )
    a = clip.embed_images(params, pixels)
    b = clip.embed_texts(params, ids, mask)
    logits = jnp.exp(jnp.minimum(params["logit_scale"], 4.6)) * a @ b.T
    truth = jnp.arange(len(images))
    cross = optax.softmax_cross_entropy_with_integer_labels
    loss = (cross(logits, truth) + cross(logits.T, truth)).mean() / 2
    right = jnp.mean(jnp.argmax(logits, -1) == truth)
    return loss, {"accuracy": right}

  params = fit(
    loss_fn,
    clip.init(key),
    epochs((renders(), ids, mask), batch, seed),
    steps,
    lr=2e-3,
    key=key,
    name="clip",
    weight_decay=0.05,
  )
  return clip, params


# --- the generator ------------------------------------------------------------


def janus(tokens) -> Janus:
  """Returns the tiny Janus: 32-pixel images of 16 codes, 1.9 M parameters."""
  return Janus(
    language=llama.Llama(
      vocab_size=-(-len(tokens) // 8) * 8,  # so that small meshes divide it
      width=128,
      mlp_width=256,
      num_layers=4,
      num_heads=4,
      num_kv_heads=2,
      head_width=32,
      remat="full",
    ),
    vision=siglip.Siglip(
      width=72,
      mlp_width=288,
      num_layers=2,
      num_heads=4,
      image_size=world.IMAGE_SIZE,
      patch_size=8,
    ),
    tokenizer=VQ,
    bos_id=tokens.bos_token_id,
    pad_id=tokens.pad_token_id,
    boi_id=tokens.convert_tokens_to_ids(JANUS_TOKENS["boi_token"]),
    image_id=tokens.convert_tokens_to_ids(JANUS_TOKENS["image_token"]),
  )


def pad_left(
  rows: list[list[int]], value: int
) -> tuple[np.ndarray, np.ndarray]:
  """Stacks rows of ids: [B, T] int32 and mask [B, T], True = real."""
  length = max(map(len, rows))
  ids = np.full((len(rows), length), value, np.int32)
  mask = np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    ids[i, length - len(row) :] = row
    mask[i, length - len(row) :] = True
  return ids, mask


def train_base(
  processor: JanusProcessor, vq_params, seed: int, steps: int, batch: int = 48
):
  """Trains a Janus that draws from a title and reads an image, no history."""
  tokens = processor.tokenizer
  model = janus(tokens)
  key = jax.random.key(seed)
  params = model.init(key)
  # Codes start where the tokenizer put them, so near codes look alike.
  params["image_head"]["embed"]["embedding"] = vq_params["quantizer"][
    "embedding"
  ]
  params.pop("tokenizer")
  images = renders()
  encode = jax.jit(
    lambda x: model.encode_pixels(
      {"tokenizer": vq_params}, x.astype(jnp.float32) / 255
    )
  )
  codes = np.concatenate([encode(x) for x in np.split(images, 10)])
  draw_rows = [processor.text_prompt_ids(title) for title in titles()]
  # A question about an image ends where an answer in words begins.
  head = processor.prompt_ids([""], "Describe the image.")[:-1]
  read_rows = [
    head
    + tokens.encode(" " + title, add_special_tokens=False)
    + [tokens.eos_token_id]
    for title in titles()
  ]
  draw_ids, draw_mask = pad_left(draw_rows, model.pad_id)
  read_ids, read_mask = pad_left(read_rows, model.pad_id)
  answer = np.zeros(read_mask.shape, bool)  # True = a token to predict
  for row, ids in zip(answer, read_rows, strict=True):
    row[len(row) - len(ids) + len(head) :] = True

  def loss_fn(params, rows, key):
    drawn, read = rows
    ids, mask, codes = drawn
    prompt = Prompt(ids, mask, jnp.zeros((len(ids), 0, 32, 32, 3), jnp.uint8))
    dropped = jax.random.bernoulli(key, 0.1, (len(ids), 1, 1))
    embeds = jnp.where(
      dropped,
      model.embed(params, model.unconditional(prompt)),
      model.embed(params, prompt),
    )
    hidden = model.teacher_forced_hidden(params, embeds, mask, codes[:, None])
    logits = model.image_vocabulary.logits(params, hidden)[:, 0]
    cross = optax.softmax_cross_entropy_with_integer_labels
    draw_loss = cross(logits, codes).mean()

    ids, mask, answer, images = read
    embeds = model.embed(params, Prompt(ids, mask, images[:, None]))
    hidden = model.hidden_states(params, embeds, mask)
    logits = model.text_vocabulary.logits(params, hidden[:, :-1])
    losses = cross(logits, ids[:, 1:])
    read_loss = jnp.sum(losses * answer[:, 1:]) / jnp.sum(answer[:, 1:])
    return draw_loss + 0.5 * read_loss, {"draw": draw_loss, "read": read_loss}

  batches = zip(
    epochs((draw_ids, draw_mask, codes), batch, seed),
    epochs((read_ids, read_mask, answer, images), batch // 2, seed + 1),
    strict=False,
  )
  params = fit(
    loss_fn,
    params,
    batches,
    steps,
    lr=2e-3,
    key=key,
    name="base",
    weight_decay=0.01,
  )
  return model, params | {"tokenizer": vq_params}


# --- all of it ---------------------------------------------------------------


def write_clip(folder: Path, clip: Clip, params, tokens) -> None:
  """Writes CLIP in HF format."""
  config, preprocessor = hf_clip.config_to_hf(clip)
  config["text_config"] |= {
    "bos_token_id": tokens.bos_token_id,
    "pad_token_id": tokens.pad_token_id,
  }
  with tempfile.TemporaryDirectory() as source:
    tokens.save_pretrained(source)
    write_json(Path(source, "preprocessor_config.json"), preprocessor)
    write_model.write(
      folder,
      config,
      to_hf(hf_clip.rules(clip), jax.device_get(params)),
      dtype="bfloat16",
      source=source,
    )


def write_source(folder: Path, model: Janus, tokens) -> None:
  """Writes all of a tiny Janus but its weights."""
  config, generation = janus_config.config_to_hf(
    model, eos_id=tokens.eos_token_id, max_positions=4096
  )
  side = model.image_size
  tokens.save_pretrained(folder)
  (folder / "chat_template.jinja").write_text(CHAT)
  write_json(folder / "config.json", config)
  write_json(folder / "generation_config.json", generation)
  write_json(
    folder / "preprocessor_config.json",
    {
      "image_processor_type": "JanusImageProcessor",
      "do_resize": True,
      "do_rescale": True,
      "do_normalize": True,
      "do_pad": True,
      "image_mean": [0.5, 0.5, 0.5],
      "image_std": [0.5, 0.5, 0.5],
      "min_size": 14,
      "resample": 3,
      "rescale_factor": 1 / 255,
      "size": {"height": side, "width": side},
    },
  )


def write_json(path: Path, value) -> None:
  """Writes indented JSON."""
  path.write_text(json.dumps(value, indent=2) + "\n")


def fine_tune(out: Path, seed: int) -> None:
  """Runs configs/sft.py on the new tiny_base and exports its result."""
  root = Path(__file__).parents[1]
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run(
      [
        sys.executable,
        "main.py",
        "--config=configs/sft.py",
        f"--workdir={workdir}",
        f"--config.seed={seed}",
        f"--config.model.checkpoint={out / 'tiny_base'}",
        f"--config.clip.checkpoint={out / 'tiny_clip'}",
      ],
      cwd=root,
      check=True,
    )
    loaded = load_generator(workdir, dtype="float32")
  export_generator(
    out / "tiny_sft", loaded.model, loaded.params, loaded.source, "bfloat16"
  )


def main(argv: list[str]) -> None:
  """Trains and writes the four models."""
  del argv
  logging.set_verbosity(logging.INFO)
  out, seed = Path(_OUT.value).absolute(), _SEED.value
  out.mkdir(parents=True, exist_ok=True)
  if any(out.iterdir()):
    raise app.UsageError(f"{out} is not empty: give a new folder with --out")
  start = time.time()
  tokens = tokenizer(CLIP_TOKENS, "eos_token", 32)
  write_clip(out / "tiny_clip", *train_clip(tokens, seed, 500), tokens)
  vq_params = train_vqgan(seed, 300, 1300)
  share, _ = check_vqgan(vq_params)
  logging.info("attributes read right of reconstructions: %s", share)
  tokens = tokenizer(JANUS_TOKENS, "", 4096)
  with tempfile.TemporaryDirectory() as folder:
    source = Path(folder)
    write_source(source, janus(tokens), tokens)
    processor = JanusProcessor.from_pretrained(source)
    model, params = train_base(processor, vq_params, seed, 2500)
    export_generator(
      out / "tiny_base", model, jax.device_get(params), source, "bfloat16"
    )
  fine_tune(out, seed)
  logging.info("done in %.0f minutes", (time.time() - start) / 60)


if __name__ == "__main__":
  app.run(main)
