"""Captions: whether a model still reads images, by the real items' titles.

Training on what is generated may cost a model what it understands. Letters:
P users, W tokens of a title, T of the question, h w pixels.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from genrec_jax import sampling
from genrec_jax.core.types import PyTree, Title
from genrec_jax.data import titles
from genrec_jax.evals.compiled import compile_rows
from genrec_jax.evals.held_out import HeldOutBatch, fill
from genrec_jax.models.api import Generator
from genrec_jax.rewards import Question
from genrec_jax.runtime.distributed import to_host

QUESTION = "Describe the image."
_MAX_TOKENS = 64  # of a title and its end


@dataclasses.dataclass(frozen=True, eq=False)
class Captions:
  """What asks a model for the titles of real next items.

  Attributes:
    read: (params, (images [P, h, w, 3] uint8, titles [P, 1, W])) -> [P].
    title_ids: the tokens of a title as an answer has it.
    end_id: ends an answer in words.
    length: W.
  """

  read: Callable[[PyTree, Any], jax.Array]
  title_ids: Callable[[str], Sequence[int]]
  end_id: int
  length: int

  def accuracy(
    self, params: PyTree, batches: Sequence[HeldOutBatch]
  ) -> np.ndarray:
    """Returns the share [U] of each next item's title that is read right.

    Of its tokens and the end: those that the model finds likeliest, given the
    item's image and the tokens before.
    """
    found = []
    for held in batches:
      rows = (np.asarray(held.batch.future[:, 0]), self._title(held))
      found.append(to_host(self.read(params, rows))[: held.count])
    return np.concatenate(found).astype(np.float64)

  def _title(self, held: HeldOutBatch) -> Title:
    rows = [
      titles.as_answer(self.title_ids(title), self.end_id, self.length)
      for title in held.titles
    ]
    # To [P, 1, W].
    return jax.tree.map(
      lambda *each: fill(np.stack(each)[:, None], held.size), *rows
    )


def make(
  model: Generator,
  processor: Any,
  batches: Sequence[HeldOutBatch],
  mesh: Mesh,
) -> Captions | None:
  """Compiles what reads; None without titles, or if the model does not answer.

  Args:
    model: the generator.
    processor: of the generator.
    batches: all that will be read.
    mesh: the rows of a batch are split over it.
  """
  all_titles = {title for held in batches for title in held.titles}
  if not all_titles or not processor.answers:
    return None
  longest = max(len(processor.title_ids(title)) for title in all_titles)
  question = Question.asked(processor, QUESTION)

  def read(params, rows):
    images, title = rows
    prompt = question.prompt(images)
    embeds = model.embed(params, prompt)
    hidden = model.teacher_forced_hidden(
      params, embeds, prompt.mask, None, title
    )  # [P, 1, W, D]
    right = sampling.map_logits(
      model.text_vocabulary,
      lambda hidden, tokens: (
        jnp.argmax(model.text_vocabulary.logits(params, hidden), -1) == tokens
      ),
      hidden,
      title.tokens,
    )  # [P, 1, W]
    counted = title.written
    return ((right & counted).sum(-1) / counted.sum(-1))[:, 0]

  return Captions(
    read=compile_rows(read, mesh),
    title_ids=processor.title_ids,
    end_id=question.end_id,
    length=min(longest + 1, _MAX_TOKENS),
  )
