"""What the synthetic world allows a perfect model, for benchmarks.abilities."""

from typing import NamedTuple

import numpy as np

from genrec_jax.data import world, world_users
from genrec_jax.evals import oracles

SHOWN = 5  # items of a history
SEED = 99  # of users whom no training has seen


class Users(NamedTuple):
  """Held-out users: what is shown of them and what they want next."""

  items: np.ndarray  # [U, 5] item indices, oldest first
  following: np.ndarray  # [U] item index
  wants: np.ndarray  # [U, 3]


def simulate(users: int) -> Users:
  """Returns users with whole histories, late enough for wants to have moved."""
  events = world_users.simulate(users, 13, seed=SEED)
  return Users(events.items[:, 7:12], events.items[:, 12], events.wants[:, 12])


def posterior(users: Users) -> list[np.ndarray]:
  """Returns how likely the next item has each value: 3 of [U, C]."""
  shown = world.attributes(users.items)
  return oracles.predictive(shown, np.ones(users.items.shape, bool))


def sampled_match(users: Users, power: float) -> float:
  """Returns preference_match of samples from the posterior to a power."""
  found = []
  for p, wants in zip(posterior(users), users.wants.T, strict=True):
    sharp = p**power / np.sum(p**power, -1, keepdims=True)
    found.append(np.take_along_axis(sharp, wants[:, None], -1))
  return float(np.mean(found))


def next_item_entropy(users: Users) -> float:
  """Returns the nats that the next item costs a perfect model."""
  following = world.attributes(users.following)
  free = np.prod([world.COUNTS[attribute] for attribute in world.FREE])
  nats = np.log(free)
  for p, attribute in zip(posterior(users), world.WANTED, strict=True):
    chosen = np.take_along_axis(p, following[:, attribute, None], -1)
    nats -= np.log(chosen).mean()
  return float(nats)
