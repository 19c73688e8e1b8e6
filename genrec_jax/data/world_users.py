"""Users of the synthetic world: wants that drift, and the items they get.

A user wants one shape, one colour and one texture at a time, mostly gets them,
and now and then changes their mind: the next item depends on the recent history
more than on the average.
"""

import itertools
from typing import NamedTuple

import numpy as np

from genrec_jax.data.world import COUNTS, FREE, NUM_ITEMS, WANTED, item_index

FIDELITY = 0.9  # how often an item has what is wanted, of each attribute
DRIFT = 0.06  # how often each want switches before an event
_START = 1_600_000_000  # seconds; any day will do
_TIE = 0.2  # share of neighbouring events with equal timestamps


class Events(NamedTuple):
  """Events of simulated users, and what they wanted at each."""

  items: np.ndarray  # [U, E] int64 item indices
  timestamps: np.ndarray  # [U, E] int64 seconds, never decreasing
  wants: np.ndarray  # [U, E, 3] int64, in the order of PREFERRED


def simulate(
  num_users: int,
  num_events: int,
  seed: int,
  *,
  fidelity: float = FIDELITY,
  drift: float = DRIFT,
) -> Events:
  """Simulates users; the same arguments give the same events.

  Before each event each want switches to another value with probability
  `drift`. Each preferred attribute of the event's item equals the want with
  probability `fidelity`, else is uniform over the others; background and size
  are uniform. No user gets an item twice: background and size are sampled
  again, and a user who has had all that a want offers gets any unseen item.
  """
  if num_events > NUM_ITEMS:
    raise ValueError(
      f"num_events={num_events}: expected at most {NUM_ITEMS}, as no item comes"
      " twice; give fewer."
    )
  rng = np.random.default_rng(seed)
  counts = np.asarray([COUNTS[a] for a in WANTED])
  current = rng.integers(counts, size=(num_users, len(counts)))  # [U, 3] wants
  seen = np.zeros((num_users, NUM_ITEMS), bool)
  items = np.zeros((num_users, num_events), np.int64)
  wants = np.zeros((num_users, num_events, len(counts)), np.int64)
  for event in range(num_events):
    current = _switch(rng, current, counts, drift)
    wants[:, event] = current
    preferred = _switch(rng, current, counts, 1 - fidelity)  # [U, 3]
    items[:, event] = _sample_unseen(rng, preferred, seen)
    seen[np.arange(num_users), items[:, event]] = True
  # Seconds between events, none where they are tied.
  gaps = rng.integers(60, 86_400, size=(num_users, num_events))
  gaps = np.where(rng.random(gaps.shape) < _TIE, 0, gaps)
  return Events(items, _START + np.cumsum(gaps, axis=1), wants)


def _switch(
  rng: np.random.Generator,
  values: np.ndarray,
  counts: np.ndarray,
  probability: float,
) -> np.ndarray:
  """Moves each value to another, uniformly, with the given probability."""
  # Added to a value, 1 to count - 1 gives each other value once.
  other = (values + 1 + rng.integers(counts - 1, size=values.shape)) % counts
  return np.where(rng.random(values.shape) < probability, other, values)


def _sample_unseen(
  rng: np.random.Generator, preferred: np.ndarray, seen: np.ndarray
) -> np.ndarray:
  """Samples an item with the preferred attributes for each user: [U] int64.

  Args:
    rng: source of the other attributes.
    preferred: attributes, [U, 3].
    seen: items that a user has had, [U, items] bool.
  """
  attrs = np.zeros((len(preferred), len(COUNTS)), np.int64)
  attrs[:, WANTED] = preferred
  todo = np.arange(len(preferred))  # users who still need an item
  for attempt in itertools.count():
    # After so many attempts a user has most likely had all that it wants.
    fresh = range(len(COUNTS)) if attempt >= 200 else FREE
    for a in fresh:
      attrs[todo, a] = rng.integers(COUNTS[a], size=len(todo))
    todo = todo[seen[todo, item_index(attrs[todo])]]
    if not len(todo):
      break
  return item_index(attrs)
