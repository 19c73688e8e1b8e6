"""The model's own eyes: how well it reads its title off the image it generated.

Its understanding path, with the parameters that generated and no other weights,
is asked about the image and scored at the title. As GvU does, arXiv 2603.06043.
Letters: P prompts, G samples per prompt, W tokens of a title, T tokens of the
question, h w pixels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax import sampling
from genrec_jax.core.types import Prompt, PyTree, Title
from genrec_jax.models.api import Generator


@dataclasses.dataclass(frozen=True)
class Question:
  """What is asked about an image.

  Attributes:
    ids: of the prompt of an answer in words, about one image.
    end_id: ends an answer in words.
  """

  ids: tuple[int, ...]
  end_id: int

  @classmethod
  def asked(cls, processor: Any, text: str) -> "Question":
    """Returns a question in the tokens of a generator's processor."""
    return cls(tuple(processor.question_ids([""], text)), processor.end_ids[0])

  def prompt(self, images: jax.Array) -> Prompt:
    """Returns the prompts that ask it of images uint8 [P, h, w, 3]."""
    ids = np.asarray([self.ids], np.int32)  # [1, T]
    rows = jnp.broadcast_to(ids, (len(images), ids.shape[1]))
    return Prompt(
      ids=rows, mask=jnp.ones(rows.shape, bool), images=images[:, None]
    )


def read_titles(
  model: Generator,
  params: PyTree,
  question: Question,
  images: jax.Array,
  title: Title,
) -> jax.Array:
  """Returns log p(title | image) by the model itself: [P, G, W].

  Of each word and of the end of the answer; 0 after it. A title without words
  is an end alone, which is no likely answer.

  Args:
    model: the generator.
    params: its parameters; no gradient flows to them.
    question: what it answers with the title.
    images: [P, G, h, w, 3] uint8.
    title: [P, G, W].
  """
  params = jax.lax.stop_gradient(params)
  # An answer in words has another end than a title before an image.
  tokens = jnp.where(title.words, title.tokens, question.end_id)
  answer = dataclasses.replace(title, tokens=tokens)

  def read(one: tuple[jax.Array, Title]) -> jax.Array:
    images, answer = one  # [P, h, w, 3], [P, W]
    alone = jax.tree.map(lambda x: x[:, None], answer)  # a group of one
    prompt = question.prompt(images)
    return sampling.score_titles(model, params, prompt, alone)[:, 0]

  # Over G, not P: prompts are split over devices, samples are not.
  each = jax.tree.map(lambda x: x.swapaxes(0, 1), (images, answer))
  return jax.lax.map(read, each).swapaxes(0, 1)  # [P, G, W]


def eyes(read: jax.Array, targets: None) -> jax.Array:
  """Returns the mean log-probability of a title's tokens, read off its image.

  Args:
    read: [P, G], in nats per token, at most 0; see `read_titles`.
    targets: not read.
  """
  del targets
  return read


def mean_reading(logprobs: jax.Array, title: Title) -> jax.Array:
  """Returns the mean over the tokens of each title: [P, G, W] -> [P, G]."""
  written = title.written
  return jnp.where(written, logprobs, 0.0).sum(-1) / written.sum(-1)
