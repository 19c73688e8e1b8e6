"""Votes: what is one, and the files that hold them.

A vote is what one rater says of one task:

    {"id": "SESSION-TASK", "study": ID, "task": ID, "session": ID,
     "prolific_pid": "", "study_id": "", "session_id": "",
     "answers": {"taste": "left" | "right" | "neither", "next": ..., ...},
     "copies": ["left", "right"], "milliseconds": {"taste": 1200, ...}}

The page sends, or saves, {"study": ID, "votes": [vote, ...]}; `serve` keeps a
vote a line.
"""

from collections.abc import Collection, Iterator
import json
from pathlib import Path
import re
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.study.answers import SIDES
from genrec_jax.study.texts import QUESTIONS

_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_IDS = ("prolific_pid", "study_id", "session_id")  # of recruiting sites
_LONGEST = 24 * 3600 * 1000  # milliseconds; a page may stay open over night
_FIELDS = {
  *("id", "study", "task", "session", "answers", "copies", "milliseconds"),
  *_IDS,
}


def problem(vote: Any, study: str, tasks: Collection[str]) -> str:
  """Returns what is wrong with a vote, '' if it is one.

  Args:
    vote: anything that JSON can hold.
    study: id of the study.
    tasks: ids of its tasks.
  """
  if vote is None:
    return "a broken line"  # of a server that was killed
  if not isinstance(vote, dict) or vote.keys() != _FIELDS:
    return "not a vote"
  names = [vote[name] for name in ("study", "task", "session")]
  ids = [vote[name] for name in _IDS]
  if not all(_is_name(name) for name in names) or not all(
    i == "" or _is_name(i) for i in ids
  ):
    return "bad names"
  if vote["study"] != study:
    return "of another study, or its rules were changed since"
  if vote["task"] not in tasks:
    return "of no task"
  if vote["id"] != f"{vote['session']}-{vote['task']}":
    return "bad id"
  return _bad_answers(vote)


def _is_name(value: Any) -> bool:
  return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _bad_answers(vote: dict[str, Any]) -> str:
  answers, times = vote["answers"], vote["milliseconds"]
  for values in (answers, times):
    if not isinstance(values, dict) or values.keys() != QUESTIONS.keys():
      return "not an answer and a time for each question"
  # As a list: what cannot be hashed is no answer either.
  if not all(answer in [*SIDES] for answer in answers.values()):
    return "bad answers"
  if not all(type(x) is int and 0 <= x <= _LONGEST for x in times.values()):
    return "bad times"
  if vote["copies"] not in ([], ["left"], ["right"], ["left", "right"]):
    return "bad marks"
  return ""


def who(vote: dict[str, Any]) -> str:
  """Returns who gave a vote: a participant of a site, or else a session."""
  return vote["prolific_pid"] or vote["session"]


def read(path: str) -> Iterator[Any]:
  """Yields what is in files of votes, valid or not; None: a broken line.

  Args:
    path: a file, or a folder: `.jsonl` as `serve` writes it, `.json` as the
      page saves it.

  Raises:
    UserError: no such files.
  """
  place = Path(path)
  if place.is_dir():
    paths = sorted([*place.glob("*.jsonl"), *place.glob("*.json")])
    paths = [p for p in paths if p.name != "truth.json"]  # of `simulate`
  else:
    paths = [place] if place.is_file() else []
  if not paths:
    raise UserError(
      f"{path}: expected a file of votes, votes.jsonl or the .json that the"
      " page saves, or a folder of such files"
    )
  for file in paths:
    text = file.read_text(errors="replace")
    # A line that is no JSON is what a kill left, and is counted as such.
    if file.suffix == ".jsonl":
      yield from map(_parse, filter(str.strip, text.splitlines()))
    else:
      saved = _parse(text)
      votes = saved.get("votes") if isinstance(saved, dict) else None
      yield from votes if isinstance(votes, list) else [None]


def _parse(text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return None
