"""Raters whose preferences are known: they test the analysis, and its power.

Each vote follows Davidson's model exactly (see `bradley_terry`), whoever gives
it, and votes are alike by construction: with some chance a vote follows a
number that all raters share about a user's two images, or one that a rater
shares among all images of two rows. So intervals are put to the test, too.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np
import tqdm

from genrec_jax.core.errors import UserError
from genrec_jax.study import analysis, bradley_terry, resample
from genrec_jax.study.answers import Answers
from genrec_jax.study.exclusions import Rules, reasons
from genrec_jax.study.folder import Study
from genrec_jax.study.texts import QUESTIONS


class Behaviour(NamedTuple):
  """What raters do."""

  tie: float = 0.4  # nu of Davidson's model; a sixth of equal pairs
  by_user: float = 0.15  # votes that follow a number about a user's two images
  by_rater: float = 0.1  # that follow a rater's number about two rows
  same_again: float = 0.7  # repeats that are answered as before at once
  attention: float = 0.97  # checks that are answered right
  sees_copy: float = 0.9  # copies that are marked
  seconds: float = 2.5  # a question, the median


_ATTENTIVE = Behaviour()


class Trials(NamedTuple):
  """What simulated studies find, and whether their intervals are honest."""

  # {(a, b): share of studies whose interval of the win rate is off one half}
  power: dict[tuple[str, str], float]
  covered: float  # share of all these intervals that hold the true rate


def evenly(rows: Sequence[str], step: float = 0.4) -> dict[str, float]:
  """Returns scores with mean 0, the first row's the highest."""
  middle = (len(rows) - 1) / 2
  return {row: step * (middle - i) for i, row in enumerate(rows)}


def scores(study: Study, given: Sequence[str]) -> dict[str, float]:
  """Returns {row: score} of 'row:score' of all rows, or evenly apart of none.

  Raises:
    UserError: not such a score for each row of the study.
  """
  rows = study.record["rows"]
  if not given:
    return evenly(rows)
  try:
    found = {
      row: float(score) for row, _, score in (x.rpartition(":") for x in given)
    }
  except ValueError:
    found = {}
  if found.keys() != set(rows) or not np.isfinite([*found.values()]).all():
    raise UserError(
      f"--truth={','.join(given)}: expected a score of each row, as"
      f" {','.join(f'{row}:{score:g}' for row, score in evenly(rows).items())}"
    )
  return {row: found[row] for row in rows}


def votes(
  study: Study,
  truth: Mapping[str, float],
  *,
  raters: int,
  seed: int,
  behaviour: Behaviour = _ATTENTIVE,
  always_left: int = 0,
  random_clickers: int = 0,
) -> list[dict[str, Any]]:
  """Returns the votes of raters who take the blocks by turns.

  Args:
    study: who is shown what.
    truth: {row: score}, in nats, the same for all questions.
    raters: who answer as the truth says.
    seed: of everything random.
    behaviour: of these raters.
    always_left: raters who answer left each time, besides.
    random_clickers: raters who press any button, besides.
  """
  rng = np.random.default_rng(seed)
  blocks = study.tasks["blocks"]
  kinds: list[Callable[..., dict[str, Any]]] = [
    *(_Attentive(study, truth, behaviour).answer,) * raters,
    *(_always_left,) * always_left,
    *(_at_random,) * random_clickers,
  ]
  # The careless come at any time: each takes the block that is next.
  order = rng.permutation(len(kinds))
  found = []
  for place, number in enumerate(order):
    before: dict[str, dict[str, Any]] = {}  # what this rater said of a task
    for task in blocks[place % len(blocks)]:
      entry = study.key[task["id"]]
      # A repeat comes after what it repeats.
      said = kinds[number](entry, before.get(entry["of"]), int(number), rng)
      before[task["id"]] = said
      spent = behaviour.seconds * np.exp(rng.normal(0, 0.5, len(QUESTIONS)))
      found.append(
        _vote(study.id, task["id"], f"simulated{number:04d}", said, spent)
      )
  return found


def _vote(
  study: str, task: str, session: str, said: dict[str, Any], spent: np.ndarray
) -> dict[str, Any]:
  """Returns a vote as the page sends it; `spent` [Q] in seconds."""
  times = zip(QUESTIONS, spent, strict=True)
  return {
    "id": f"{session}-{task}",
    "study": study,
    "task": task,
    "session": session,
    **dict.fromkeys(("prolific_pid", "study_id", "session_id"), ""),
    **said,
    "milliseconds": {question: int(1000 * s) for question, s in times},
  }


def trials(
  study: Study,
  truth: Mapping[str, float],
  *,
  raters: int,
  runs: int,
  seed: int,
) -> Trials:
  """Returns how often such a study finds a difference, by the first question.

  Args:
    study: who is shown what.
    truth: {row: score}.
    raters: attentive ones.
    runs: simulated studies.
    seed: of all of them.
  """
  rates = {}  # the first's wins and half of the ties
  for a, b in itertools.combinations(study.record["rows"], 2):
    win, _, tie = bradley_terry.probabilities(
      truth[a], truth[b], _ATTENTIVE.tie
    )
    rates[a, b] = win + tie / 2
  hits = dict.fromkeys(rates, 0)  # studies that found a difference
  covered = 0
  # A progress line on stderr, as this takes half a minute.
  for run in tqdm.trange(runs, desc="simulating studies", leave=False):
    made = votes(study, truth, raters=raters, seed=seed * runs + run)
    kept = attentive(study, made)
    resampled = resample.bootstrap(
      len(kept.raters), len(kept.users), resamples=500, seed=run
    )
    # As `analyse` does, but only what tells the power.
    pairs = kept.take(kept.kind == "pair")
    for found in analysis.win_rates(pairs, 0, resampled):
      away = found["low"] > 0.5 or found["high"] < 0.5
      rows = found["first"], found["second"]
      hits[rows] += away
      covered += found["low"] <= rates[rows] <= found["high"]
  power = {rows: count / runs for rows, count in hits.items()}
  return Trials(power, covered / (runs * len(rates)))


def attentive(study: Study, made: list[dict[str, Any]]) -> Answers:
  """Returns the votes that the rules of a study keep, as arrays."""
  kept, _ = analysis.sort_votes(study, made)
  answers = analysis.open_answers(study, kept)
  return answers.without(reasons(answers, Rules(**study.record["rules"])))


class _Attentive:
  """Answers as the truth says, with votes that are alike; see the module."""

  def __init__(
    self,
    study: Study,
    truth: Mapping[str, float],
    behaviour: Behaviour,
  ):
    self._rows = {row: i for i, row in enumerate(study.record["rows"])}
    self._of_history = study.of_history
    self._behaviour = behaviour
    self._shared: dict[tuple, float] = {}  # numbers that several votes follow
    # {(first, second): [3]}: the first wins, tie, the second wins; summed up.
    self._chances = {
      (a, b): bradley_terry.probabilities(truth[a], truth[b], behaviour.tie)[
        [0, 2, 1]
      ].cumsum()
      for a, b in itertools.combinations(self._rows, 2)
    }

  def answer(
    self,
    entry: Mapping[str, Any],
    before: dict[str, Any] | None,
    rater: int,
    rng: np.random.Generator,
  ) -> dict[str, Any]:
    """Returns answers and marks for a task of the key."""
    if entry["kind"] == "check":
      other = {"left": "right", "right": "left"}[entry["known"]]
      right = rng.random() < self._behaviour.attention
      side = entry["known"] if right else other
      # Out of the history the user's own image is one of those shown: a copy.
      seen = self._of_history and rng.random() < self._behaviour.sees_copy
      return {
        "answers": dict.fromkeys(QUESTIONS, side),
        "copies": [entry["known"]] if seen else [],
      }
    swapped = self._rows[entry["left"]] > self._rows[entry["right"]]
    sides = (
      ("right", "neither", "left") if swapped else ("left", "neither", "right")
    )
    if before is not None and rng.random() < self._behaviour.same_again:
      turn = {"left": "right", "right": "left", "neither": "neither"}
      answers = {q: turn[side] for q, side in before["answers"].items()}
    else:
      answers = {
        q: sides[self._outcome(entry, q, rater, rng)] for q in QUESTIONS
      }
    return {"answers": answers, "copies": []}

  def _outcome(
    self,
    entry: Mapping[str, Any],
    question: str,
    rater: int,
    rng: np.random.Generator,
  ) -> int:
    """Returns 0 where the first row is chosen, 1 for a tie, 2 the second."""
    rows = sorted((entry["left"], entry["right"]), key=self._rows.__getitem__)
    about = (question, *rows)
    # One number decides whom the vote follows, the other is how it falls.
    kind, number = rng.random(2)
    if kind < self._behaviour.by_user:
      number = self._shared.setdefault((entry["user"], *about), number)
    elif kind < self._behaviour.by_user + self._behaviour.by_rater:
      number = self._shared.setdefault((rater, *about), number)
    return int(np.searchsorted(self._chances[tuple(rows)][:2], number))


def _always_left(entry, before, rater, rng):
  """Answers left each time."""
  del entry, before, rater, rng
  return {"answers": dict.fromkeys(QUESTIONS, "left"), "copies": []}


def _at_random(entry, before, rater, rng):
  """Presses any of three buttons, and marks an image in four."""
  del entry, before, rater
  sides = ("left", "neither", "right")
  return {
    "answers": {q: sides[rng.integers(3)] for q in QUESTIONS},
    "copies": [side for side in ("left", "right") if rng.random() < 0.25],
  }
