"""Contrasts: rows of a table that are compared, and which of them are shown."""

from collections.abc import Sequence
import itertools

SHUFFLED = " shuffled"  # ends the name of a model's row with others' histories


def pairs(
  models: Sequence[str], shuffled: Sequence[str]
) -> list[tuple[str, str]]:
  """Returns the pairs of rows whose differences are taken.

  Args:
    models: in the order of the table.
    shuffled: 'MODEL shuffled' of those that have such a row.
  """
  # Later rows against earlier ones, the nearest first.
  found = [(a, b) for i, a in enumerate(models) for b in models[:i][::-1]]
  # Does a model use the history at all?
  found += [(name.removesuffix(SHUFFLED), name) for name in shuffled]
  # Is it above chance, and does the judge see the difference?
  found += [(name, "random_item") for name in (*models, "real_next_item")]
  return found


def shown(models: Sequence[str]) -> list[str]:
  """Returns the differences to show: of each model to the one before it.

  And of the last model to its own row with shuffled histories.
  """
  names = [f"{b} - {a}" for a, b in itertools.pairwise(models)]
  return names + [f"{name} - {name}{SHUFFLED}" for name in models[-1:]]
