"""The evaluator: generates for held-out users and scores what it generated."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from genrec_jax.core.types import PyTree, Title
from genrec_jax.data import titles
from genrec_jax.evals import (
  baselines,
  catalogue,
  frontier,
  held_out,
  item_rows,
  kept_images,
  shuffled,
  written,
)
from genrec_jax.evals.alarm import REWARD
from genrec_jax.evals.captions import Captions
from genrec_jax.evals.catalogue import Catalogue
from genrec_jax.evals.compiled import Generate, Reconstruct, Titled
from genrec_jax.evals.contrasts import SHUFFLED
from genrec_jax.evals.grid import grid
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.evals.panel import Panel, on_host
from genrec_jax.evals.recommenders.interactions import Interactions
from genrec_jax.evals.scoring import Items, Scorer, Sets, Shown, stacked
from genrec_jax.hf.encoders import CLIP_NAME
from genrec_jax.runtime import progress
from genrec_jax.runtime.distributed import to_host
from genrec_jax.targets import Targets

# (name, parameters, or a function that reads them)
Model = tuple[str, PyTree | Callable[[], PyTree]]

# Metrics of mid-run evaluations: few enough to watch.
_MIDRUN = (
  "history_clip_mean",
  "history_clip_max",
  "future_clip_mean",
  "text_clip",
  "preference_match",
  "copy_rate",
  "diversity",
  "title_match",
  "title_agreement",
  "title_text_clip",
  "title_image_clip",
  "title_cut",
  "caption_accuracy",
)
_MIDRUN_BY_JUDGE = ("future_{}_mean", "diversity_{}")


class Midrun(NamedTuple):
  """What an evaluation in the middle of a run finds."""

  metrics: dict[str, float]  # means over users
  grid: np.ndarray  # uint8 [H, W, 3]: users as rows
  seen: dict[str, np.ndarray]  # see `alarm.Seen`


class Comparison(NamedTuple):
  """Scores of models, of these with shuffled histories, and of other rows."""

  scores: dict[str, dict[str, np.ndarray]]  # row -> metric -> [U] float64
  sets: dict[str, Sets]  # by row
  samples: dict[str, np.ndarray]  # model -> [U', G, h, w, 3] uint8
  # {row: [K, h, w, 3] uint8}, one image of each of the first users; models
  # show their first sample. For `kept_images`.
  images: dict[str, np.ndarray]
  curves: dict[str, dict[float, dict[str, np.ndarray]]]  # see `frontier`
  titles: dict[str, np.ndarray]  # model -> [U', G] of str, of `samples`

  def add(
    self,
    row: str,
    scorer: Scorer,
    shown: Shown,
    ranks: np.ndarray | None = None,
  ) -> None:
    """Scores a row; see `Scorer.score`."""
    # Of many users and items each sum takes a while.
    with progress.waiting(f"scoring {row}", progress.COUNTED):
      self.scores[row] = scorer.score(shown, ranks)
      # The real next items have no distance from themselves.
      if row != "real_next_item":
        self.sets[row] = scorer.sets(shown)


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """All that evaluating takes, except parameters.

  Attributes:
    generate: see `compiled.make_generate`.
    panel: the encoders that look at images.
    test: the held-out users that results are reported on.
    catalogue: every item's image, uint8 [h, w, 3].
    num_samples: G, images per user.
    seed: of noise, shuffling, random items and bootstrap.
    copy_thresholds: encoder -> the cosine from which an image is a copy; see
      `calibration.calibrated`.
    recommenders: rows of the table, names of `rows.RECOMMENDERS`.
    interactions: what they learn from, and which items the generator could be
      trained on; None: there are none, and all items were.
    validation: held-out users of mid-run evaluations. They are of another
      split, so that what is seen, and perhaps chosen by, during a run is not
      what is reported at its end.
    reconstruct: see `compiled.make_reconstruct`; None: no `vq_ceiling`.
    population: who is evaluated, to stand after a number.
    keep_images: users whose images a comparison keeps, the first.
    shows_items: whether items have images; if not there are no rows of them.
    warnings: lines for the reader of the results.
    temperature: at which the models of the table are sampled.
    temperatures: others, for the curves of `frontier`; none: no curves.
    reward: (CLIP's embeddings [U, G, E], targets) -> what each user's samples
      earn, [U]; None: nothing is rewarded.
    decode: the tokens of a written title to its text.
    captions: asks models for the titles of real images; None: nobody does.
  """

  generate: Generate
  panel: Panel
  test: Sequence[HeldOutBatch]
  catalogue: Catalogue
  num_samples: int  # G
  seed: int
  copy_thresholds: Mapping[str, float]
  recommenders: tuple[str, ...] = ()
  interactions: Interactions | None = None
  validation: Sequence[HeldOutBatch] = ()
  reconstruct: Reconstruct | None = None
  population: str = "held-out users"
  keep_images: int = 0
  shows_items: bool = True
  warnings: tuple[str, ...] = ()
  temperature: float = 1.0
  temperatures: tuple[float, ...] = ()
  reward: Callable[[np.ndarray, Targets], Any] | None = None
  decode: titles.Decode | None = None
  captions: Captions | None = None

  def sample(
    self,
    params: PyTree,
    batches: Sequence[HeldOutBatch],
    *,
    keep: Sequence[int] = (),
    temperature: float | None = None,
    done: Callable[[int], None] = lambda users: None,
  ) -> tuple[Shown, np.ndarray]:
    """Generates for every user.

    Args:
      params: of the generator.
      batches: U held-out users.
      keep: numbers of users whose samples are returned.
      temperature: another than that of the table.
      done: called with the number of users of each batch, once it is generated.

    Returns:
      What the samples look like to the panel and, where it is known, to the
      truth; and those kept, in the order asked for, uint8 [U', G, h, w, 3].
    """
    key = evaluation_key(self.seed)
    others = () if temperature is None else (temperature,)
    parts = []  # one a batch
    kept: dict[int, np.ndarray] = {}  # user -> [G, h, w, 3]
    begun = 0  # users of the batches before
    for index, held in enumerate(batches):
      # By the batch's number, so that all models share their noise.
      batch_key = jax.random.fold_in(key, index)
      # The first batch compiles; of a large model each one takes a while.
      with progress.waiting("generating images", progress.COUNTED):
        generated = self.generate(params, held.batch.prompt, batch_key, *others)
        said = None
        if isinstance(generated, Titled):
          said = self._read(held, generated.title)
          generated = generated.images
        # The panel reads them on the devices, before they come to the host.
        embeds = on_host(self.panel.embed_images(generated))
        images = to_host(generated)  # [P, G, h, w, 3] uint8
      shown = Shown(embeds, held_out.read_attributes(held, images), said)
      parts.append(shown.to(np.arange(held.count)))  # the fill is no user
      # Images of all users would take gigabytes; embeddings of all do not.
      for user in set(keep).intersection(range(begun, begun + held.count)):
        kept[user] = images[user - begun].copy()  # without the others' memory
      begun += held.count
      done(held.count)
    samples = np.stack([kept[user] for user in keep]) if kept else np.zeros(0)
    return stacked(parts), samples

  def _read(self, held: HeldOutBatch, title: Title) -> written.Written:
    """Returns what the titles of a batch's samples say."""
    assert self.decode is not None
    known = held.truth is not None
    return written.read(title, self.decode, self.panel.clip, known=known)

  def midrun(self, params: PyTree, *, grid_users: int = 8) -> Midrun:
    """Evaluates a model in the middle of its training, on `validation`.

    The noise is the same at every call, which makes the curve smoother. Of the
    judges only what shows whether a reward is being hacked, and nothing that
    takes the catalogue.

    Args:
      params: of the generator.
      grid_users: rows of the grid: history | samples | real next item.
    """
    users = sum(held.count for held in self.validation)
    tally = progress.Tally(users, self.population)
    shown, samples = self.sample(
      params,
      self.validation,
      keep=range(min(grid_users, users)),
      done=functools.partial(tally.add, "evaluating"),
    )
    tally.clear()
    scorer = self._scorer(self.validation)
    scores = scorer.score(shown) | self._captions(params, self.validation)
    by_judge = [
      t.format(j) for j in self.panel.judges for t in _MIDRUN_BY_JUDGE
    ]
    seen = {name: scores[name] for name in by_judge}
    if self.reward is not None:
      targets = scorer.users.targets[CLIP_NAME]
      seen[REWARD] = np.asarray(self.reward(shown.embeds[CLIP_NAME], targets))
    means = {
      name: float(np.nanmean(values))
      for name, values in (
        {m: scores[m] for m in _MIDRUN if m in scores} | seen
      ).items()
      if not np.all(np.isnan(values))  # JSON has no NaN
    }
    for name, kid in scorer.kid(shown).items():
      seen[name], means[name] = kid, float(kid[0])
    return Midrun(means, grid(self.validation, samples), seen)

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
    items = self._encode_items() if self.shows_items else None
    scorer = self._scorer(self.test, items)
    found = Comparison({}, {}, {}, {}, {}, {})
    # The same exchange of users for all models, so that they compare.
    source = shuffled.derangement(users, self.seed) if users > 1 else None
    firsts = range(min(max(keep, self.keep_images), users))
    curved = [name for name, _ in models if name != "base"]
    rounds = len(models) + len(curved) * len(self._others())
    tally = progress.Tally(rounds * users, self.population)
    for name, read in models:
      params = None  # frees the last model's memory for this one
      params = read() if callable(read) else read
      # Of each user the one whose samples the shuffled row shows instead.
      others = None if name == "base" else source
      exchanged = () if others is None else others[: self.keep_images]
      shown, samples = self.sample(
        params,
        self.test,
        keep=[*firsts, *map(int, exchanged)],
        done=functools.partial(tally.add, f"evaluating {name}"),
      )
      found.add(name, scorer, shown)
      found.scores[name] |= self._captions(params, self.test)
      found.samples[name] = samples[:keep]
      if shown.written is not None:
        found.titles[name] = shown.written.texts[:keep]
      if self.keep_images:
        found.images[name] = samples[: self.keep_images, 0]
      if others is not None:
        found.add(name + SHUFFLED, scorer, shown.to(others))
        if self.keep_images:
          found.images[name + SHUFFLED] = samples[len(firsts) :, 0]
      if name in curved and self.temperatures:
        curve = {self.temperature: found.scores[name]}
        for other in self._others():
          shown, _ = self.sample(
            params,
            self.test,
            temperature=other,
            done=functools.partial(tally.add, frontier.row_name(name, other)),
          )
          curve[other] = scorer.score(shown)
        found.curves[name] = curve
    tally.clear()
    if self.shows_items:
      # The image tokenizer is frozen: any model's parameters do.
      self._add_baselines(found, scorer, params)
    return found

  def _captions(
    self, params: PyTree, batches: Sequence[HeldOutBatch]
  ) -> dict[str, np.ndarray]:
    """Returns how much of real titles a model reads: {metric: [U]}, or {}."""
    if self.captions is None:
      return {}
    with progress.waiting("captioning real items", progress.COUNTED):
      return {"caption_accuracy": self.captions.accuracy(params, batches)}

  def _add_baselines(
    self, found: Comparison, scorer: Scorer, params: PyTree
  ) -> None:
    """Scores the rows that show an item, and the real one in codes."""
    assert scorer.items is not None
    rows = item_rows.choose(
      scorer.users,
      scorer.items,
      recommenders=self.recommenders,
      interactions=self.interactions,
      num_samples=self.num_samples,
      seed=self.seed,
    )
    tally = progress.Tally(len(rows.numbers), "rows")
    for row, numbers in rows.numbers.items():
      shown = scorer.items.shown(numbers)
      found.add(row, scorer, shown, rows.ranks.get(row))
      tally.add(f"scoring {row}", 1)
    tally.clear()
    if self.keep_images:
      found.images.update(
        kept_images.of_items(rows.numbers, self.catalogue, self.keep_images)
      )
    if self.reconstruct is None:
      return
    tally = progress.Tally(
      sum(held.count for held in self.test), self.population
    )
    shown = baselines.vq_ceiling(
      self.panel,
      self.test,
      functools.partial(self.reconstruct, params),
      num_samples=self.num_samples,
      done=functools.partial(tally.add, "evaluating the VQ ceiling"),
    )
    tally.clear()
    found.add("vq_ceiling", scorer, shown)

  def _encode_items(self) -> Items:
    """Returns the catalogue as the panel sees it, each image read once."""
    trained = np.ones(len(self.catalogue), bool)
    if self.interactions is not None:
      trained = self.interactions.counts > 0
    tally = progress.Tally(len(self.catalogue), "items")
    items = catalogue.encode(
      self.catalogue,
      self.panel,
      trained,
      batch_size=self.test[0].size,
      num_samples=self.num_samples,
      known=self.test[0].truth is not None,
      done=functools.partial(tally.add, "reading the catalogue"),
    )
    tally.clear()
    return items

  def _others(self) -> list[float]:
    """Returns the temperatures of curves that the table has not."""
    return [t for t in self.temperatures if t != self.temperature]

  def _scorer(
    self, batches: Sequence[HeldOutBatch], items: Items | None = None
  ) -> Scorer:
    return Scorer(
      held_out.join(batches),
      self.copy_thresholds,
      self.seed,
      items,
      raters=self.panel.raters,
    )


def evaluation_key(seed: int) -> jax.Array:
  """Returns the PRNG key of evaluation, which no training step has."""
  # Steps fold their number in; none has this one.
  return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))
