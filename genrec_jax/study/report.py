"""Files of an analysis: analysis.json, analysis.html, votes.csv, raters.csv."""

from collections.abc import Mapping, Sequence
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from genrec_jax.core import files
from genrec_jax.html import render
from genrec_jax.study.answers import Answers
from genrec_jax.study.texts import QUESTIONS

_TEMPLATE = Path(__file__).with_name("analysis.html")


def write(out: str, found: Mapping[str, Any], answers: Answers) -> None:
  """Writes all files.

  Args:
    out: a folder, made if there is none.
    found: see `analysis.analyse`.
    answers: of all raters, those left out, too.
  """
  folder = Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  # A browser, too, reads it, and NaN is no JSON.
  text = json.dumps(_without_nan(found), indent=2, allow_nan=False)
  files.write(folder / "analysis.json", text + "\n")
  # The best first, which is how a page is read.
  ranked = {
    question: sorted(fitted["rows"].items(), key=lambda cell: -cell[1]["score"])
    for question, fitted in found["scores"].items()
  }
  page = render.page(
    _TEMPLATE, title="User study", stamp=_stamp(found), ranked=ranked, **found
  )
  files.write(folder / "analysis.html", page)
  # Also of those left out: a reader may want to decide otherwise.
  excluded = found["raters"]["excluded"]
  files.write(folder / "votes.csv", _csv(_votes(answers, excluded)))
  files.write(folder / "raters.csv", _csv(_raters(answers, excluded)))


def table(found: Mapping[str, Any]) -> str:
  """Returns what the terminal shows."""
  lines = [_stamp(found)]
  # First of all, what does not count and why.
  lines += [f"  dropped: {line}" for line in found["dropped"]]
  for rater, why in found["raters"]["excluded"].items():
    lines.append(f"  left out {rater}: {'; '.join(why)}")
  for question, text in QUESTIONS.items():
    tie = found["scores"][question]["tie"]
    alpha, again = found["alpha"][question], found["consistency"][question]
    lines += [
      "",
      f"{text}",
      f"  alpha {alpha:.2f}, same answer again {again['same']:.0%} of"
      f" {again['of']}, left {found['position'][question]['left']:.0%},"
      f" nu of ties {tie:.2f}",
      f"  {'':34}{'won':>6}{'lost':>6}{'tied':>6}{'win rate':>10}  95 %",
    ]
    for pair in found["win_rates"][question]:
      name = f"{pair['first']} against {pair['second']}"
      lines.append(
        f"  {name:<34}{pair['wins']:>6}{pair['losses']:>6}{pair['ties']:>6}"
        f"{pair['rate']:>10.3f}  [{pair['low']:.3f}, {pair['high']:.3f}]"
      )
    for row, cell in found["scores"][question]["rows"].items():
      lines.append(
        f"  {row:<34}{'score':>18}{cell['score']:>+10.3f}"
        f"  [{cell['low']:+.3f}, {cell['high']:+.3f}]"
      )
  copied = ", ".join(
    f"{row} {cell['share']:.1%}" for row, cell in found["copies"].items()
  )
  lines += [
    "",
    f"marked as copies: {copied}",
    f"medians: {found['seconds']['pair']:.1f} s a pair,"
    f" {found['seconds']['session'] / 60:.1f} min a session",
    f"{found['pairs']['with_three_raters']} of {found['pairs']['all']} pairs"
    " have three raters or more",
    "A tie counts as half a win. Scores: Bradley-Terry with ties (Davidson), in"
    " nats, of mean 0. Intervals: 95 %, bootstrap over raters and over users;"
    " those of scores hold for all rows and questions at once.",
  ]
  return "\n".join(lines)


def _stamp(found: Mapping[str, Any]) -> str:
  raters, votes = found["raters"], found["votes"]
  return (
    f"{raters['kept']} of {raters['all']} raters, {votes['kept']} of"
    f" {votes['all']} votes, {votes['pairs']} of them on pairs of rows"
  )


def _votes(answers: Answers, excluded: Mapping[str, Sequence[str]]) -> list:
  """Returns a line for each vote: what was chosen, by rows' names."""
  lines = []
  for v in range(len(answers.rater)):
    rater, kind = answers.raters[answers.rater[v]], str(answers.kind[v])
    # A check shows one row twice: of the user, and made for another.
    names = {"check": ("own image", "other's image")}.get(kind) or (
      answers.rows[answers.first[v]],
      answers.rows[answers.second[v]],
    )
    # As `Answers.outcome` counts.
    chosen = {1: names[0], -1: names[1], 0: "cannot say"}
    left = names[int(answers.swapped[v])]
    lines.append(
      {
        "rater": _number(answers, rater),
        "kind": kind,
        "user": answers.users[answers.user[v]],
        "first": names[0],
        "second": names[1],
        "on_the_left": left,
        **{
          q: chosen[int(answers.outcome[v, i])] for i, q in enumerate(QUESTIONS)
        },
        "first_marked_copy": int(answers.copies[v, 0]),
        "second_marked_copy": int(answers.copies[v, 1]),
        "seconds": f"{answers.seconds[v]:.1f}",
        "task": str(answers.task[v]),
        "repeats": str(answers.of[v]),
        "kept": int(rater not in excluded),
      }
    )
  return lines


def _raters(answers: Answers, excluded: Mapping[str, Sequence[str]]) -> list:
  """Returns a line for each rater: who is paid, and who is left out and why."""
  lines = []
  for number, rater in enumerate(answers.raters):
    own = answers.take(answers.rater == number)
    decided = own.side != 0  # a tie has no side
    lines.append(
      {
        "rater": _number(answers, rater),
        "participant": rater,
        "votes": len(own.rater),
        "checks": int(own.check.sum()),
        "checks_missed": int(own.missed.sum()),
        "left_share": f"{(own.side < 0).sum() / max(decided.sum(), 1):.2f}",
        "minutes": f"{own.seconds.sum() / 60:.1f}",
        "left_out": "; ".join(excluded.get(rater, ())),
      }
    )
  return lines


def _number(answers: Answers, rater: str) -> str:
  """Returns a name for a rater that tells nothing of them."""
  return f"r{list(answers.raters).index(rater) + 1:03d}"


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
  text = io.StringIO()  # at once: files appear whole
  writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue()


def _without_nan(value: Any) -> Any:
  """Returns a value of JSON, which has no NaN, with null for it."""
  if isinstance(value, Mapping):
    return {k: _without_nan(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(v) for v in value]
  return None if isinstance(value, float) and math.isnan(value) else value
