"""Language models that generate from a title and read an image; no history yet.

Letters: B rows, T tokens, I codes per image, C codebook.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.core.types import Prompt, PyTree
from genrec_jax.data import world
from genrec_jax.hf.processor import Processor

from .image_tokenizers import item_codes
from .tokens import INSTRUCTIONS
from .training import epochs, fit, renders, titles


def train(
  model: Any,
  params: PyTree,
  processor: Processor,
  seed: int,
  steps: int,
  batch: int = 48,
) -> PyTree:
  """Trains to generate from a title and to read an image, half as much.

  Args:
    model: a generator of any family, which has `hidden_states`, too.
    params: with those of its image tokenizer, which stay as they are.
    processor: of the model.
    seed: of batches and of what they leave out.
    steps: with one batch of either each.
    batch: titles; of images half as many.

  Returns:
    The trained parameters.
  """
  tokenizer = {"tokenizer": params["tokenizer"]}
  images, codes = renders(), item_codes().reshape(world.NUM_ITEMS, -1)
  prompts = pad_left(
    [processor.text_prompt_ids(title) for title in titles()], model.pad_id
  )
  batches = zip(
    epochs((*prompts, codes), batch, seed),
    epochs((*questions(processor, model.pad_id), images), batch // 2, seed + 1),
    strict=False,
  )

  def loss_fn(params, rows, key):
    generated, read = rows
    params = params | tokenizer
    written = generation_loss(model, params, key, *generated)
    said = reading_loss(model, params, *read)
    return written + 0.5 * said, {"generate": written, "read": said}

  params = fit(
    loss_fn,
    {name: part for name, part in params.items() if name not in tokenizer},
    batches,
    steps,
    lr=2e-3,
    key=jax.random.key(seed),
    name="base",
    weight_decay=0.01,
  )
  return params | tokenizer


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
  processor: Processor, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns every item's question and answer in words.

  Returns:
    ids [B, T] int32, mask [B, T], True = real, and answer [B, T], True = a
    token to predict.
  """
  head = processor.question_ids([""], INSTRUCTIONS[1])
  rows = [
    [*head, *processor.title_ids(title), processor.end_ids[0]]
    for title in titles()
  ]
  ids, mask = pad_left(rows, pad_id)
  answer = np.zeros(mask.shape, bool)
  for row, written in zip(answer, rows, strict=True):
    row[len(row) - len(written) + len(head) :] = True
  return ids, mask, answer


def generation_loss(
  model: Any,
  params: PyTree,
  key: jax.Array,
  ids: jax.Array,  # [B, T]
  mask: jax.Array,  # [B, T]
  codes: jax.Array,  # [B, I]
) -> jax.Array:
  """Returns the mean cross-entropy of codes; a tenth of prompts are dropped."""
  size = model.read_size
  images = jnp.zeros((len(ids), 0, size, size, 3), jnp.uint8)
  given = Prompt(ids, mask, images)
  nothing = model.unconditional(given)
  # Guidance needs a branch without the prompt.
  dropped = jax.random.bernoulli(key, 0.1, (len(ids), 1))
  prompt = Prompt(
    jnp.where(dropped, nothing.ids, ids),
    jnp.where(dropped, nothing.mask, mask),
    images,
  )
  hidden = model.teacher_forced_hidden(
    params, model.embed(params, prompt), prompt.mask, codes[:, None]
  )
  logits = model.image_vocabulary.logits(params, hidden)[:, 0]  # [B, I, C]
  cross = optax.softmax_cross_entropy_with_integer_labels
  return cross(logits, codes).mean()


def reading_loss(
  model: Any,
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
