"""Janus that generates from a title and reads an image; no history yet."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers

from genrec_jax.core.types import Prompt, PyTree
from genrec_jax.data import world
from genrec_jax.hf import janus_config
from genrec_jax.hf.janus_processor import CHAT, JanusProcessor
from genrec_jax.models import llama, siglip
from genrec_jax.models.janus import Janus

from .tokens import INSTRUCTIONS, JANUS_TOKENS
from .training import epochs, fit, renders, titles, write_json
from .vqgan import VQ, item_codes


def tiny_janus(tokens: transformers.PreTrainedTokenizerBase) -> Janus:
  """Returns the model: 32-pixel images of 16 codes, 1.9 M parameters."""
  vocabulary = tokens.get_vocab()
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
    boi_id=vocabulary[JANUS_TOKENS["boi_token"]],
    image_id=vocabulary[JANUS_TOKENS["image_token"]],
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


def questions(
  processor: JanusProcessor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns every item's question and answer in words.

  Returns:
    ids [B, T] int32, mask [B, T], True = real, and answer [B, T], True = a
    token to predict.
  """
  tokens = processor.tokenizer
  # A question about an image ends where an answer in words begins.
  head = processor.prompt_ids([""], INSTRUCTIONS[1])[:-1]
  rows = [
    head
    + tokens.encode(" " + title, add_special_tokens=False)
    + [tokens.eos_token_id]
    for title in titles()
  ]
  ids, mask = pad_left(rows, processor.pad_id)
  answer = np.zeros(mask.shape, bool)
  for row, written in zip(answer, rows, strict=True):
    row[len(row) - len(written) + len(head) :] = True
  return ids, mask, answer


def train(
  processor: JanusProcessor,
  vq_params: PyTree,
  seed: int,
  steps: int,
  batch: int = 48,
) -> tuple[Janus, PyTree]:
  """Trains to generate from a title and to read an image, half as much."""
  model = tiny_janus(processor.tokenizer)
  key = jax.random.key(seed)
  params = model.init(key)
  # Codes start where the tokenizer put them, so near codes look alike.
  params["image_head"]["embed"]["embedding"] = vq_params["quantizer"][
    "embedding"
  ]
  params.pop("tokenizer")
  images, codes = renders(), item_codes().reshape(world.NUM_ITEMS, -1)
  prompts = pad_left(
    [processor.text_prompt_ids(title) for title in titles()], model.pad_id
  )
  batches = zip(
    epochs((*prompts, codes), batch, seed),
    epochs((*questions(processor), images), batch // 2, seed + 1),
    strict=False,
  )

  def loss_fn(params, rows, key):
    generated, read = rows
    draw_loss = generation_loss(model, params, key, *generated)
    read_loss = reading_loss(model, params, *read)
    return draw_loss + 0.5 * read_loss, {"draw": draw_loss, "read": read_loss}

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


def generation_loss(
  model: Janus,
  params: PyTree,
  key: jax.Array,
  ids: jax.Array,  # [B, T]
  mask: jax.Array,  # [B, T]
  codes: jax.Array,  # [B, I]
) -> jax.Array:
  """Returns the mean cross-entropy of codes; a tenth of prompts are dropped."""
  prompt = Prompt(ids, mask, jnp.zeros((len(ids), 0, 32, 32, 3), jnp.uint8))
  # Guidance needs a branch without the prompt.
  dropped = jax.random.bernoulli(key, 0.1, (len(ids), 1, 1))
  embeds = jnp.where(
    dropped,
    model.embed(params, model.unconditional(prompt)),
    model.embed(params, prompt),
  )  # [B, T, D]
  hidden = model.teacher_forced_hidden(params, embeds, mask, codes[:, None])
  logits = model.image_vocabulary.logits(params, hidden)[:, 0]  # [B, I, C]
  cross = optax.softmax_cross_entropy_with_integer_labels
  return cross(logits, codes).mean()


def reading_loss(
  model: Janus,
  params: PyTree,
  ids: jax.Array,  # [B, T]
  mask: jax.Array,  # [B, T]
  answer: jax.Array,  # [B, T] bool, True = a token to predict
  images: jax.Array,  # [B, h, w, 3] uint8
) -> jax.Array:
  """Returns the mean cross-entropy of the answers' tokens."""
  embeds = model.embed(params, Prompt(ids, mask, images[:, None]))
  hidden = model.hidden_states(params, embeds, mask)  # [B, T, D]
  logits = model.text_vocabulary.logits(params, hidden[:, :-1])
  cross = optax.softmax_cross_entropy_with_integer_labels
  losses = cross(logits, ids[:, 1:])  # [B, T - 1]
  return jnp.sum(losses * answer[:, 1:]) / jnp.sum(answer[:, 1:])


def write_settings(
  folder: Path, model: Janus, tokens: transformers.PreTrainedTokenizerFast
) -> None:
  """Writes all of a folder in HF format but the weights."""
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
