"""Runs that differ in their seed only, as one; and what was varied."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genrec_jax.evals.compare.runs import Run

# Keys that change no number of a result: where a run is, how it is read,
# logged, saved and shown. The same holds of the run whose model an evaluation
# is of, and of all that this run evaluated itself.
_NO_MATTER = (
  "workdir",
  "data.workers",
  "train.log_every",
  "train.eval_every",
  "train.checkpoint_every",
  "train.keep",
  "eval.batch_size",
  "eval.keep_images",
  "eval.users_during",
)
_TRAINED = "trained."  # see `Run.identity`
FIRST = "the first"  # its name where many keys were varied
_ABSENT = "-"  # shown for a key that a run's config has not
_MANY = 2  # values; of more a name would be a list that nobody compares


class Group(NamedTuple):
  """Runs of one configuration, one for each seed.

  Attributes:
    name: what distinguishes it from the others; its workdir's if nothing does.
    values: of the varied keys, as they are shown.
    runs: by their seeds.
  """

  name: str
  values: Mapping[str, str]
  runs: Sequence[Run]

  @property
  def seeds(self) -> list[int]:
    """The seed of each run."""
    return [run.seed for run in self.runs]


def group(runs: Sequence[Run]) -> list[Group]:
  """Returns the groups of runs, in the order of their first runs."""
  found: dict[tuple, list[Run]] = {}
  for run in runs:
    found.setdefault(_configuration(run), []).append(run)
  keys = varied(runs)
  short = dict(zip(keys, shorten(keys), strict=True))
  several = len({run.row for run in runs}) > 1  # as sft against rl of one run
  groups = []
  for members in found.values():
    first = members[0]
    values = {short[key]: show(first.config.get(key, _ABSENT)) for key in keys}
    if several:
      values["row"] = first.row
    groups.append(Group("", values, sorted(members, key=lambda run: run.seed)))
  return [one._replace(name=_name(one, groups[0])) for one in groups]


def _name(one: Group, first: Group) -> str:
  """Returns what distinguishes a group: if that is much, from the first."""
  values = one.values
  if len(values) > _MANY:
    if one is first:
      return FIRST
    values = {k: v for k, v in values.items() if v != first.values[k]}
  name = ", ".join(f"{key}={value}" for key, value in values.items())
  return name or one.runs[0].path


def varied(runs: Sequence[Run]) -> list[str]:
  """Returns the keys that differ between runs, but for the seed."""
  keys = dict.fromkeys(key for run in runs for key in run.identity)
  return [
    key
    for key in keys
    if _matters(key)
    and len({repr(run.identity.get(key, _ABSENT)) for run in runs}) > 1
  ]


def _matters(key: str) -> bool:
  # How a run watched itself is no part of what it trained.
  if key.startswith(f"{_TRAINED}eval."):
    return False
  return key.removeprefix(_TRAINED) not in _NO_MATTER


def shorten(keys: Sequence[str]) -> list[str]:
  """Returns keys without their sections, where that tells them apart.

  'rl.advantage' is 'advantage', 'rewards.text.weight' 'text.weight'.
  """
  ends = [key.partition(".")[2] or key for key in keys]
  return [
    end if ends.count(end) == 1 else key
    for key, end in zip(keys, ends, strict=True)
  ]


def show(value: Any) -> str:
  """Returns a value as it is shown: 0.5, grpo, (0.5, 1.5)."""
  if isinstance(value, list | tuple):  # JSON knows no tuples
    return f"({', '.join(map(show, value))})"
  return f"{value:g}" if isinstance(value, float) else str(value)


def _configuration(run: Run) -> tuple:
  """Returns what runs of one configuration have in common."""
  return (
    run.row,
    *sorted(
      (key, repr(value)) for key, value in run.identity.items() if _matters(key)
    ),
  )
