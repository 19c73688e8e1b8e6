"""The folder of a study.

    STUDY/site/       what raters get, on any static host; see `site`
    STUDY/study.json  rows, users and the rules of exclusion, fixed
    STUDY/key.json    which task shows which rows: never served
    STUDY/votes.jsonl the votes that `serve` received

A study's id is the hash of study.json, which holds hashes of the tasks and of
the key. Every vote carries it: rules that were changed after a vote no longer
belong to that vote.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from genrec_jax.core import files
from genrec_jax.core.errors import UserError

SITE, RECORD, KEY, VOTES = "site", "study.json", "key.json", "votes.jsonl"


class Study(NamedTuple):
  """A study that was made."""

  path: Path
  id: str
  record: dict[str, Any]  # study.json
  key: dict[str, dict[str, Any]]  # task -> what it shows; see `site`
  tasks: dict[str, Any]  # site/tasks.json

  @property
  def of_history(self) -> bool:
    """Whether attention checks show images out of histories, not of a row."""
    return self.record.get("checks", "history") == "history"


def digest(value: Any) -> str:
  """Returns the hash of what JSON can hold, whatever order its names have."""
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, record: dict[str, Any], key: dict[str, Any]) -> str:
  """Writes study.json and key.json into a folder; returns the study's id."""
  text = json.dumps(record, indent=2) + "\n"
  files.write(path / RECORD, text)
  files.write(path / KEY, json.dumps(key, indent=1) + "\n")
  return _id(text)


def open_study(path: str) -> Study:
  """Returns a study whose files are as they were made.

  Raises:
    UserError: no study, or one whose rules, tasks or key were changed.
  """
  folder = Path(path)
  texts = {}  # as they are: hashes are of bytes
  for name in (RECORD, KEY, f"{SITE}/tasks.json"):
    if not (folder / name).is_file():
      raise UserError(
        f"{path} has no {name}: expected a folder that tools/study.py make"
        " wrote"
      )
    texts[name] = (folder / name).read_text()
  try:
    record, key, tasks = (json.loads(text) for text in texts.values())
    # What each of the files says, in the order of `texts`.
    same = (
      tasks["study"] == _id(texts[RECORD]),
      digest(key) == record["key_sha256"],
      digest(tasks["blocks"]) == record["tasks_sha256"],
    )
    wrong = [name for name, ok in zip(texts, same, strict=True) if not ok]
  except (ValueError, KeyError, TypeError):
    wrong = list(texts)
  if wrong:
    raise UserError(
      f"{path}: {', '.join(wrong)} changed since the study was made; rules,"
      " tasks and key are fixed before the first vote: restore the files, or"
      " make another study"
    )
  return Study(folder, tasks["study"], record, key, tasks)


def _id(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]
