"""Scoring of a row of the table: by all encoders, and by the truth.

Letters: U users, G samples, I items, E the width of an encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genrec_jax.evals import ranking_scores, scores, set_distances, written
from genrec_jax.evals.held_out import Users
from genrec_jax.evals.written import Written
from genrec_jax.hf.encoders import CLIP_NAME
from genrec_jax.rewards import cosines
from genrec_jax.targets import of_quality


class Shown(NamedTuple):
  """What a row shows U users, as encoders and the truth see it."""

  embeds: Mapping[str, np.ndarray]  # encoder -> [U, G, E] float32, unit
  attributes: np.ndarray | None  # [U, G, 5] int; None where not known
  written: Written | None = None  # the titles of what it shows, if it has any

  def to(self, source: np.ndarray) -> "Shown":
    """Returns what user source[u] is shown for every user u: [U] int."""
    return Shown(
      {name: values[source] for name, values in self.embeds.items()},
      None if self.attributes is None else self.attributes[source],
      None if self.written is None else self.written.to(source),
    )


def stacked(parts: Sequence[Shown]) -> Shown:
  """Returns what all users of some parts are shown."""
  names = parts[0].embeds
  attributes = [p.attributes for p in parts if p.attributes is not None]
  return Shown(
    {name: np.concatenate([p.embeds[name] for p in parts]) for name in names},
    np.concatenate(attributes) if attributes else None,
    written.stacked([part.written for part in parts]),
  )


class Items(NamedTuple):
  """The catalogue, as encoders and the truth see it."""

  embeds: Mapping[str, np.ndarray]  # encoder -> [I, E] float32, unit
  attributes: np.ndarray | None  # [I, 5] int; None where not known
  trained: np.ndarray  # [I] bool, True = the item is in the training data

  def shown(self, numbers: np.ndarray) -> Shown:
    """Returns what users see who are shown items: [U, G] int."""
    return Shown(
      {name: values[numbers] for name, values in self.embeds.items()},
      None if self.attributes is None else self.attributes[numbers],
    )


class Sets(NamedTuple):
  """Distances of a row's images from the real next ones, by each judge."""

  # {metric: {"mean", "low", "high"}}, of Frechet's {"mean", "images", "real"}:
  # its size depends on these numbers.
  cells: dict[str, dict[str, Any]]
  parts: dict[str, np.ndarray]  # {metric: [U]}; see `set_distances.parts`


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
  """Scores what rows show to the same U users.

  Attributes:
    users: what samples are compared with.
    copy_thresholds: encoder -> the cosine from which an image is a copy; of
      others copies are not counted.
    seed: of the choice of other users and of resamples.
    items: the catalogue; None, in mid-run evaluations: nothing is ranked.
    raters: encoder -> its logit scale; they score quality and nothing else.
  """

  users: Users
  copy_thresholds: Mapping[str, float]
  seed: int
  items: Items | None = None
  raters: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def score(
    self, shown: Shown, ranks: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """Returns the scores of a row: {metric: [U] float64}.

    Args:
      shown: what the row shows.
      ranks: of each user's real next item, by a row that ranks the catalogue
        itself, [U]; None: by how near what it shows comes to each item.
    """
    found: dict[str, np.ndarray] = {}
    for name, embeds in shown.embeds.items():
      if name in self.raters:
        found |= self._quality(name, embeds)
      else:
        found |= self._by_encoder(name, embeds, ranks)
    if self.users.truth is not None and shown.attributes is not None:
      # Its copy rate takes the place of CLIP's: the truth needs no threshold.
      found |= scores.truth_scores(
        shown.attributes,
        self.users.truth,
        np.asarray(self.users.targets[CLIP_NAME].history_mask),
        np.asarray(self.users.targets[CLIP_NAME].future_mask),
      )
    if shown.written is not None:
      found |= written.scores(
        shown.written,
        shown.embeds[CLIP_NAME],
        self.users.targets[CLIP_NAME],
        shown.attributes,
        None if self.users.truth is None else self.users.truth.wants,
      )
    return found

  def sets(self, shown: Shown) -> Sets:
    """Returns the distances of a row's set; nothing for a single user."""
    found = Sets({}, {})
    for name, embeds, real in self._judged(shown):
      users = len(real)
      counts = np.concatenate(
        [self.resamples, set_distances.all_but_one(users)]
      )
      distances = set_distances.distances(embeds, real, counts)
      for kind, values in distances._asdict().items():
        metric = f"{kind}_{name}"
        found.cells[metric] = {**set_distances.interval(values[:-users])}
        found.parts[metric] = set_distances.parts(values[0], values[-users:])
      flat = embeds.reshape(-1, embeds.shape[-1])  # [U G, E]
      found.cells[f"frechet_{name}"] = {
        "mean": set_distances.frechet(flat, real),
        "images": len(flat),
        "real": len(real),
      }
    return found

  def kid(self, shown: Shown) -> dict[str, np.ndarray]:
    """Returns each judge's KID: {metric: [R + 1]}; see `distances`.

    Nothing for a single user.
    """
    return {
      f"kid_{name}": set_distances.distances(embeds, real, self.resamples).kid
      for name, embeds, real in self._judged(shown)
    }

  def _judged(
    self, shown: Shown
  ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields each judge that can compare the sets, and both as it sees them.

    (name, [U, G, E] of what is shown, [U, E] of the real next items).
    """
    for name, embeds in shown.embeds.items():
      if name == CLIP_NAME or name in self.raters:
        continue
      targets = self.users.targets[name]
      # Of prompts nobody may know the next image.
      if len(targets.future) > 1 and targets.future_mask[:, 0].all():
        yield name, embeds, np.asarray(targets.future)[:, 0]

  @functools.cached_property
  def resamples(self) -> np.ndarray:
    """How often each user is in each resample; see `set_distances.resample`."""
    first = self.users.targets[CLIP_NAME]
    return set_distances.resample(len(first.history_mask), self.seed)

  def _quality(self, name: str, embeds: np.ndarray) -> dict[str, np.ndarray]:
    targets = self.users.targets[name]
    if np.isnan(targets.text).all():  # the data set has none
      return {}
    titled = of_quality(targets, self.raters[name])
    rated = cosines.quality(jnp.asarray(embeds), titled)
    return {name: np.asarray(rated, np.float64).mean(-1)}

  def _by_encoder(
    self, name: str, embeds: np.ndarray, ranks: np.ndarray | None
  ) -> dict[str, np.ndarray]:
    targets = self.users.targets[name]
    threshold = self.copy_thresholds.get(name)
    found = scores.similarity_scores(embeds, targets, threshold, name)
    if name == CLIP_NAME:
      if embeds.shape[1] == 1:  # an image has no other of the same user
        found["diversity"] = scores.spread(embeds)
    else:
      found[f"spread_{name}"] = scores.spread(embeds)
      if targets.future_mask[:, 0].all():  # prompts may have no image
        found[f"discrimination_{name}"] = ranking_scores.discrimination(
          embeds, targets, seed=self.seed
        )
    if self.items is None or self.users.rows is None:
      return found
    nearest = ranking_scores.in_catalogue(
      embeds,
      self.items.embeds[name],
      seen=self.users.rows.seen,
      target=self.users.rows.target,
      trained=self.items.trained,
      copy_threshold=threshold,
    )
    if nearest.copies is not None:
      found[f"catalogue_copy_{name}"] = nearest.copies
    if name != CLIP_NAME:
      found |= ranking_scores.retrieval_scores(
        nearest.ranks if ranks is None else ranks, self.candidates, name
      )
    return found

  @functools.cached_property
  def candidates(self) -> np.ndarray:
    """How many items are ranked for each user: [U]."""
    assert self.items is not None
    assert self.users.rows is not None
    return ranking_scores.candidates(
      self.users.rows.seen, self.users.rows.target, len(self.items.trained)
    )
