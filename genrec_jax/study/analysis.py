"""What votes say: counts, win rates, scores, agreement, exclusions."""

from collections import Counter
from collections.abc import Iterable
import itertools
from typing import Any

import numpy as np

from genrec_jax.core.errors import UserError, listed
from genrec_jax.study import agreement, bradley_terry, resample, votes
from genrec_jax.study.answers import Answers, join
from genrec_jax.study.exclusions import Rules, reasons
from genrec_jax.study.folder import Study
from genrec_jax.study.resample import Bootstrap
from genrec_jax.study.resample import Votes as SummedVotes
from genrec_jax.study.texts import QUESTIONS

RESAMPLES = 2000
_RATERS_A_PAIR = 3  # fewer say nothing of agreement


def sort_votes(
  study: Study, found: Iterable[Any]
) -> tuple[list[dict[str, Any]], Counter[str]]:
  """Returns the votes of a study, one a rater and task, and what is dropped.

  Args:
    study: whose votes count.
    found: what files hold; see `votes.read`.

  Returns:
    Votes with 'who', their rater; and {reason: number} of all others.
  """
  kept: dict[tuple[str, str], dict[str, Any]] = {}
  ids, dropped = set(), Counter[str]()
  for vote in found:
    wrong = votes.problem(vote, study.id, study.key)
    if not wrong:
      place = (votes.who(vote), vote["task"])
      if vote["id"] in ids:
        wrong = "the same vote again"  # a file that was merged twice, say
      elif place in kept:
        wrong = "the same rater on the same task again"  # the first one counts
      else:
        kept[place] = vote | {"who": place[0]}
      ids.add(vote["id"])
    if wrong:
      dropped[wrong] += 1
  return list(kept.values()), dropped


def run(study: Study, found: Iterable[Any]) -> tuple[dict[str, Any], Answers]:
  """Returns the analysis of what vote files hold, and the votes in it.

  Raises:
    UserError: no vote of this study, or all raters are excluded.
  """
  kept, dropped = sort_votes(study, found)
  lines = [f"{number} votes: {reason}" for reason, number in dropped.items()]
  if not kept:
    raise UserError(
      listed(f"no votes of the study {study.path}; what there was:", lines)
    )
  answers = open_answers(study, kept)
  return analyse(study, answers) | {"dropped": lines}, answers


def open_answers(study: Study, kept: list[dict[str, Any]]) -> Answers:
  """Returns the votes of `sort_votes` as arrays."""
  record = study.record
  return join(kept, study.key, record["rows"], record["users"])


def analyse(
  study: Study,
  answers: Answers,
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> dict[str, Any]:
  """Returns everything that the page shows; see the functions below.

  Args:
    study: with its rules of exclusion.
    answers: of all raters.
    seed: of the bootstrap.
    resamples: of raters and users.

  Raises:
    UserError: all raters are excluded.
  """
  excluded = reasons(answers, Rules(**study.record["rules"]))
  kept = answers.without(excluded)
  if not kept.raters:
    raise UserError(
      listed(
        f"the rules exclude all of {len(answers.raters)} raters:",
        [f"{rater}: {'; '.join(why)}" for rater, why in excluded.items()],
      )
    )
  pairs = kept.take(kept.kind == "pair")
  resampled = resample.bootstrap(
    len(kept.raters), len(kept.users), resamples=resamples, seed=seed
  )
  # A unit of agreement is what raters can differ on: a user and two rows.
  units = np.ravel_multi_index(
    (pairs.user, pairs.first, pairs.second),
    (len(kept.users), len(kept.rows), len(kept.rows)),
  )  # [V]
  return {
    "rows": list(kept.rows),
    "questions": QUESTIONS,
    "raters": {
      "all": len(answers.raters),
      "kept": len(kept.raters),
      "excluded": excluded,
      "rules": study.record["rules"],
    },
    "votes": {
      "all": len(answers.rater),
      "kept": len(kept.rater),
      "pairs": len(pairs.rater),
    },
    "pairs": _raters_a_pair(kept, units),
    **_by_question(kept, pairs, units, resampled),
    "copies": copies(pairs, resampled),
    "checks": {
      "missed": _share(kept.missed[kept.check]),
      # Only an image of the history that is shown has to be marked.
      "copies_marked": _share(kept.copies[kept.check, 0])
      if study.of_history
      else None,
    },
    "seconds": times(kept),
  }


def _by_question(
  kept: Answers, pairs: Answers, units: np.ndarray, resampled: Bootstrap
) -> dict[str, dict[str, Any]]:
  """Returns {what: {question: result}} of the functions below."""
  each = list(enumerate(QUESTIONS))
  return {
    "win_rates": {name: win_rates(pairs, q, resampled) for q, name in each},
    "scores": {name: scores(pairs, q, resampled) for q, name in each},
    "alpha": {
      name: agreement.alpha(units, pairs.outcome[:, q]) for q, name in each
    },
    "position": {name: position(pairs, q, resampled) for q, name in each},
    # Of all votes: a pair, its repeat and the checks between them.
    "consistency": {name: consistency(kept, q) for q, name in each},
  }


def _raters_a_pair(kept: Answers, units: np.ndarray) -> dict[str, int]:
  """Returns how many pairs there are, and how many enough raters saw."""
  rows = len(kept.rows)
  _, raters = np.unique(units, return_counts=True)
  return {
    "all": len(kept.users) * rows * (rows - 1) // 2,
    "with_three_raters": int((raters >= _RATERS_A_PAIR).sum()),
  }


def win_rates(
  pairs: Answers, q: int, resampled: Bootstrap
) -> list[dict[str, Any]]:
  """Returns, for each two rows, how often the first was chosen.

  A tie counts as half a win.
  """
  found = []
  for a, b in itertools.combinations(range(len(pairs.rows)), 2):
    own = pairs.take((pairs.first == a) & (pairs.second == b))
    outcome = own.outcome[:, q]  # [V]
    found.append(
      {
        "first": pairs.rows[a],
        "second": pairs.rows[b],
        "wins": int((outcome == 1).sum()),
        "losses": int((outcome == -1).sum()),
        "ties": int((outcome == 0).sum()),
        **_share_of(
          own, (1 + outcome) / 2, np.ones(len(outcome)), resampled, "rate"
        ),
      }
    )
  return found


def scores(pairs: Answers, q: int, resampled: Bootstrap) -> dict[str, Any]:
  """Returns Bradley-Terry scores with ties, and nu; see `bradley_terry`.

  The intervals are to hold for all rows and all questions at once: they are
  read side by side.
  """
  rows = len(pairs.rows)
  # [V, 2, K, K]: the tables of wins, and of ties, of each vote alone.
  votes_of = np.zeros((len(pairs.rater), 2, rows, rows))
  every, outcome = np.arange(len(votes_of)), pairs.outcome[:, q]
  votes_of[every, 0, pairs.first, pairs.second] = outcome == 1
  votes_of[every, 0, pairs.second, pairs.first] = outcome == -1
  votes_of[every, 1, pairs.first, pairs.second] = outcome == 0
  votes_of[every, 1, pairs.second, pairs.first] = outcome == 0

  def fit(sums):  # [B, 2 K K]
    tables = sums.reshape(-1, 2, rows, rows)
    return bradley_terry.fit(tables[:, 0], tables[:, 1])

  values = votes_of.reshape(len(votes_of), -1)  # [V, D]
  best = fit(values.sum(0)[None])  # of all votes, one table
  spread = resample.variance(
    resampled,
    SummedVotes(pairs.rater, pairs.user, values),
    lambda x: fit(x).scores,
  )  # [K]
  together = rows * len(QUESTIONS)
  half = resample.quantile(resampled.clusters, together) * np.sqrt(
    spread
  )  # [K]
  found = {}
  for row, score, width in zip(pairs.rows, best.scores[0], half, strict=True):
    ends = {"low": float(score - width), "high": float(score + width)}
    found[row] = {"score": float(score), **ends}
  return {"rows": found, "tie": float(best.tie[0])}


def copies(pairs: Answers, resampled: Bootstrap) -> dict[str, dict[str, Any]]:
  """Returns, for each row, how often its image was marked as a copy."""
  found = {}
  for k, row in enumerate(pairs.rows):
    shown = np.stack([pairs.first == k, pairs.second == k], -1)  # [V, 2]
    marked = (shown & pairs.copies).sum(-1)
    found[row] = {"shown": int(shown.sum())} | _share_of(
      pairs, marked, shown.sum(-1), resampled, "share"
    )
  return found


def position(pairs: Answers, q: int, resampled: Bootstrap) -> dict[str, float]:
  """Returns how often the left one was chosen of what was decided.

  Rows stand left as often as right: one half, but for a habit of raters.
  """
  side = pairs.side[:, q]
  return _share_of(pairs, side == -1, side != 0, resampled, "left")


def _share_of(
  own: Answers,
  part: np.ndarray,
  whole: np.ndarray,
  resampled: Bootstrap,
  name: str,
) -> dict[str, float]:
  """Returns sum(part) / sum(whole) of votes [V] as `name`, and its interval."""

  def ratio(sums):  # [B, 2] -> [B]
    nothing = sums[:, 1] == 0
    return np.where(nothing, np.nan, sums[:, 0]) / np.where(
      nothing, 1, sums[:, 1]
    )

  values = np.stack([part, whole], -1).astype(np.float64)
  share = float(ratio(values.sum(0)[None])[0])
  spread = 0.0
  if not np.isnan(share):
    votes_of = SummedVotes(own.rater, own.user, values)
    spread = float(resample.variance(resampled, votes_of, ratio))
  low, high = resample.share_interval(share, spread, resampled.clusters)
  return {name: share, "low": low, "high": high}


def consistency(kept: Answers, q: int) -> dict[str, float]:
  """Returns how often a rater answers a pair, seen again, as before."""
  # {(rater, task): outcome} of all votes; the repeats look theirs up.
  first = {
    (rater, task): outcome
    for rater, task, outcome in zip(
      kept.rater, kept.task, kept.outcome[:, q], strict=True
    )
  }
  again = kept.take(kept.kind == "repeat")
  same = [
    first[rater, of] == outcome
    for rater, of, outcome in zip(
      again.rater, again.of, again.outcome[:, q], strict=True
    )
    if (rater, of) in first
  ]
  return {"same": _share(np.asarray(same)), "of": len(same)}


def times(kept: Answers) -> dict[str, float]:
  """Returns the medians, over raters, of the seconds a pair and a session."""
  each = [kept.seconds[kept.rater == r] for r in np.unique(kept.rater)]
  if not each:
    return {"pair": float("nan"), "session": float("nan")}
  return {
    "pair": float(np.median([np.median(seconds) for seconds in each])),
    "session": float(np.median([seconds.sum() for seconds in each])),
  }


def _share(values: np.ndarray) -> float:
  """Returns a mean, NaN of nothing."""
  return float(np.mean(values)) if len(values) else float("nan")
