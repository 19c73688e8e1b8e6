"""The evaluator: generates for held-out users and scores what it generated."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from genrec_jax.core.types import PyTree
from genrec_jax.evals import (
  baselines,
  frontier,
  held_out,
  kept_images,
  shuffled,
  summary,
)
from genrec_jax.evals.catalogue import Catalogue
from genrec_jax.evals.compiled import Generate, Reconstruct
from genrec_jax.evals.grid import grid
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.evals.judge import Judge
from genrec_jax.runtime import progress
from genrec_jax.runtime.distributed import to_host

# (name, parameters, or a function that reads them)
Model = tuple[str, PyTree | Callable[[], PyTree]]


class Evaluation(NamedTuple):
  """Scores and samples of one model."""

  scores: dict[str, np.ndarray]  # metric -> [U] float64, NaN: undefined
  samples: np.ndarray  # [U', G, h, w, 3] uint8, of the first users
  embeds: np.ndarray  # [U, G, E] float32, of all
  attributes: np.ndarray | None  # [U, G, 5] int, see `read_attributes`


class Comparison(NamedTuple):
  """Scores of models, of the same with shuffled histories, and of baselines."""

  scores: dict[str, dict[str, np.ndarray]]  # row -> metric -> [U] float64
  samples: dict[str, np.ndarray]  # model -> [U', G, h, w, 3] uint8
  # {row: [K, h, w, 3] uint8}, one image of each of the first users; models
  # show their first sample. For `kept_images`.
  images: dict[str, np.ndarray]
  curves: frontier.Scores  # at several temperatures; {}: at none


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """All that evaluating takes, except parameters.

  Attributes:
    generate: see `compiled.make_generate`.
    judge: scores the samples.
    test: the held-out users that results are reported on.
    catalogue: every item's image, uint8 [h, w, 3].
    num_samples: G, images per user.
    seed: of noise, shuffling, random items and bootstrap.
    validation: held-out users of mid-run evaluations. They are of another
      split, so that what is seen, and perhaps chosen by, during a run is not
      what is reported at its end.
    reconstruct: see `compiled.make_reconstruct`; None: no `vq_ceiling`.
    population: who is evaluated, to stand after a number.
    keep_images: users whose images a comparison keeps, the first.
    warnings: lines for the reader of the results.
    temperature: at which the models of the table are sampled.
    temperatures: others, for the curves of `frontier`; none: no curves.
  """

  generate: Generate
  judge: Judge
  test: Sequence[HeldOutBatch]
  catalogue: Catalogue
  num_samples: int  # G
  seed: int
  validation: Sequence[HeldOutBatch] = ()
  reconstruct: Reconstruct | None = None
  population: str = "held-out users"
  keep_images: int = 0
  warnings: tuple[str, ...] = ()
  temperature: float = 1.0
  temperatures: tuple[float, ...] = ()

  def evaluate(
    self,
    params: PyTree,
    batches: Sequence[HeldOutBatch],
    *,
    keep: int = 0,
    temperature: float | None = None,
    done: Callable[[int], None] = lambda users: None,
  ) -> Evaluation:
    """Generates for every user and scores the samples.

    Args:
      params: of the generator.
      batches: U held-out users.
      keep: return the samples of that many users, the first.
      temperature: another than that of the table.
      done: called with the number of users of each batch, once it is scored.
    """
    key = evaluation_key(self.seed)
    others = () if temperature is None else (temperature,)
    parts, all_embeds, all_attributes = [], [], []  # one of each a batch
    kept: list[np.ndarray] = []  # [count, G, h, w, 3] each
    for index, held in enumerate(batches):
      # By the batch's number, so that all models share their noise.
      batch_key = jax.random.fold_in(key, index)
      generated = self.generate(params, held.batch.prompt, batch_key, *others)
      # CLIP reads the images on the devices, before they come to the host.
      embeds = to_host(self.judge.embed_images(generated)).astype(np.float32)
      images = to_host(generated)  # [P, G, h, w, 3] uint8
      attributes = held_out.read_attributes(held, images)  # [P, G, 5]
      parts.append(self.judge.score(held, embeds, attributes))
      all_embeds.append(embeds[: held.count])  # the fill is no user
      if attributes is not None:
        all_attributes.append(attributes[: held.count])
      # Images of all users would take gigabytes; embeddings of all do not.
      if sum(len(part) for part in kept) < keep:
        kept.append(images[: held.count])
      done(held.count)
    return Evaluation(
      held_out.concatenate(parts),
      np.concatenate(kept)[:keep] if kept else np.zeros(0),
      np.concatenate(all_embeds),
      np.concatenate(all_attributes) if all_attributes else None,
    )

  def midrun(
    self, params: PyTree, *, grid_users: int = 8
  ) -> tuple[dict[str, float], np.ndarray]:
    """Evaluates a model in the middle of its training, on `validation`.

    The noise is the same at every call, which makes the curve smoother.

    Args:
      params: of the generator.
      grid_users: rows of the grid.

    Returns:
      {metric: mean over users}, and an image uint8 [H, W, 3] of users as rows:
      history | samples | real next item.
    """
    users = sum(held.count for held in self.validation)
    tally = progress.Tally(users, self.population)
    evaluation = self.evaluate(
      params,
      self.validation,
      keep=grid_users,
      done=functools.partial(tally.add, "evaluating"),
    )
    tally.clear()
    means = {
      name: float(np.nanmean(values))
      for name, values in evaluation.scores.items()
      if not np.all(np.isnan(values))  # JSON has no NaN
    }
    return means, grid(self.validation, evaluation.samples)

  def compare(self, models: Sequence[Model], *, keep: int = 12) -> Comparison:
    """Scores models, with their own and shuffled histories, and baselines.

    All processes of a run enter it. Every model but 'base', which never learned
    from a history, is scored with shuffled histories as well: every user by the
    images generated for another.

    Args:
      models: in the order of the table. Where parameters are read by a
        function, one model is in memory at a time.
      keep: users whose samples are returned, the first.
    """
    users = sum(held.count for held in self.test)
    # The same exchange of users for all models, so that they compare.
    source = shuffled.derangement(users, self.seed) if users > 1 else None
    curved = [
      name for name, _ in models if name != "base" and self.temperatures
    ]
    rounds = len(models) + len(curved) * len(self._others())
    tally = progress.Tally(rounds * users, self.population)
    scores: dict[str, dict[str, np.ndarray]] = {}
    swapped, samples, images = {}, {}, {}  # shuffled rows; see `Comparison`
    curves: dict[str, dict[float, dict[str, np.ndarray]]] = {}
    for name, read in models:
      params = None  # frees the last model's memory for this one
      params = read() if callable(read) else read
      evaluation = self.evaluate(
        params,
        self.test,
        keep=max(keep, self.keep_images),
        done=functools.partial(tally.add, f"evaluating {name}"),
      )
      scores[name] = evaluation.scores
      samples[name] = evaluation.samples[:keep]
      if self.keep_images:
        images[name] = evaluation.samples[: self.keep_images, 0]
      if name != "base" and source is not None:
        swapped[name + summary.SHUFFLED] = shuffled.score_shuffled(
          self.judge,
          self.test,
          evaluation.embeds,
          evaluation.attributes,
          source,
        )
      if name in curved:
        curves[name] = {self.temperature: evaluation.scores} | {
          other: self.evaluate(
            params,
            self.test,
            temperature=other,
            done=functools.partial(tally.add, f"{name} at temperature {other}"),
          ).scores
          for other in self._others()
        }
    tally.clear()
    tally = progress.Tally(users, self.population)
    scores |= swapped | baselines.score_all(
      self.judge,
      self.test,
      self.catalogue,
      num_samples=self.num_samples,
      seed=self.seed,
      # The image tokenizer is frozen: any model's parameters do.
      reconstruct=self.reconstruct
      and functools.partial(self.reconstruct, params),
      done=functools.partial(tally.add, "evaluating baselines"),
    )
    tally.clear()
    if self.keep_images:
      images |= kept_images.of_baselines(
        self.test,
        self.catalogue,
        num_samples=self.num_samples,
        seed=self.seed,
        users=self.keep_images,
      )
    return Comparison(scores, samples, images, curves)

  def _others(self) -> list[float]:
    """Returns the temperatures of curves that the table has not."""
    return [t for t in self.temperatures if t != self.temperature]


def evaluation_key(seed: int) -> jax.Array:
  """Returns the PRNG key of evaluation, which no training step has."""
  # Steps fold their number in; none has this one.
  return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))
