"""Contrasts: rows of a table that are compared, and which of them are shown."""

from collections.abc import Sequence
import itertools

SHUFFLED = " shuffled"  # ends the name of a model's row with others' histories


def pairs(
  models: Sequence[str], shuffled: Sequence[str], recommenders: Sequence[str]
) -> list[tuple[str, str]]:
  """Returns the pairs of rows whose differences are taken.

  Args:
    models: in the order of the table.
    shuffled: 'MODEL shuffled' of those that have such a row.
    recommenders: the rows that show what a recommender would have.
  """
  # Later rows against earlier ones, the nearest first.
  found = [(a, b) for i, a in enumerate(models) for b in models[:i][::-1]]
  # Is generating better than recommending?
  found += list(itertools.product(models, recommenders))
  # Does a model use the history at all?
  found += [(name.removesuffix(SHUFFLED), name) for name in shuffled]
  # Is it above chance, and does the judge see the difference?
  found += [(name, "random_item") for name in (*models, "real_next_item")]
  return found


def shown(models: Sequence[str], recommender: str | None = None) -> list[str]:
  """Returns the differences to show: of each model to the one before it.

  And of the last model to the best recommender, if there is any, and to its own
  row with shuffled histories.
  """
  names = [f"{b} - {a}" for a, b in itertools.pairwise(models)][::-1]
  for name in models[-1:]:
    names += [f"{name} - {recommender}"] if recommender else []
    names += [f"{name} - {name}{SHUFFLED}"]
  return names
