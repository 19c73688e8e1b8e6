"""Krippendorff's alpha: how far raters agree beyond chance."""

import numpy as np


def alpha(units: np.ndarray, values: np.ndarray) -> float:
  """Returns nominal alpha: 1 all agree, 0 as by chance, negative: less.

  Krippendorff, "Content Analysis", 2018, chapter 12: 1 - D_o / D_e from the
  matrix of coincidences, in which the n values of a unit make n (n - 1) pairs,
  each of weight 1 / (n - 1). Units with one value say nothing of agreement.

  Args:
    units: [V] int, what each value is about.
    values: [V] int, in any numbers.

  Returns:
    alpha; NaN without a unit of two values. Where all values are the same it
    is 1, as nobody disagreed.
  """
  _, units = np.unique(units, return_inverse=True)
  names, values = np.unique(values, return_inverse=True)
  counts = np.zeros((units.max(initial=-1) + 1, len(names)))  # [N, C]
  np.add.at(counts, (units, values), 1)
  counts = counts[counts.sum(-1) > 1]
  if not len(counts):
    return float("nan")
  sizes = counts.sum(-1, keepdims=True)  # [N, 1]
  # Pairs of values of one unit that are the same.
  same = (counts * (counts - 1) / (sizes - 1)).sum()
  total = counts.sum()  # values that have a partner
  of_each = counts.sum(0)  # [C]
  observed = 1 - same / total
  expected = 1 - (of_each * (of_each - 1)).sum() / (total * (total - 1))
  return float(1 - observed / expected) if expected else 1.0
