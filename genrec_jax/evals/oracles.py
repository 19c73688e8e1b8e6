"""Oracles of the synthetic world: what the visible history is worth at most.

The world's users are known (`data/world_users.py`), so what one wants next has
an exact posterior given the items that a model is shown: the wants of each
attribute are a hidden Markov chain, apart from the others. Background and size
are uniform. (A user who has had all 18 items of a want gets another; as rare as
that is, it is left out.)

Letters: P users, G samples, N items shown, C values of an attribute.
"""

import numpy as np

from genrec_jax.data import world
from genrec_jax.data.world_users import DRIFT, FIDELITY
from genrec_jax.evals import ranking_scores, retrieval
from genrec_jax.evals.held_out import Rows


def _spread(probabilities: np.ndarray, stay: float) -> np.ndarray:
  """Returns [..., C] after staying with `stay`, else going to any other."""
  other = (1 - stay) / (probabilities.shape[-1] - 1)
  total = probabilities.sum(-1, keepdims=True)
  return stay * probabilities + other * (total - probabilities)


def predictive(
  history: np.ndarray,
  mask: np.ndarray,
  *,
  fidelity: float = FIDELITY,
  drift: float = DRIFT,
) -> list[np.ndarray]:
  """Returns how likely the next item has each value of each wanted attribute.

  Args:
    history: attributes of the items shown, [P, N, 5] int, oldest first.
    mask: [P, N] bool, True = a real item.
    fidelity: as the users were simulated.
    drift: as the users were simulated.

  Returns:
    Of each attribute in `world.PREFERRED` [P, C] float64, rows sum to 1. The
    likeliest value is also the likeliest want.
  """
  return [
    _spread(wants, fidelity)
    for wants in wanted(history, mask, fidelity=fidelity, drift=drift)
  ]


def wanted(
  history: np.ndarray,
  mask: np.ndarray,
  *,
  fidelity: float = FIDELITY,
  drift: float = DRIFT,
) -> list[np.ndarray]:
  """Returns how likely each value is what the user wants at the next item.

  The forward algorithm (Rabiner, 1989), and from the last item one step on.
  Arguments and shapes are those of `predictive`.
  """
  found = []
  for attribute in world.WANTED:
    size = world.COUNTS[attribute]
    wants = np.full((len(history), size), 1 / size)  # [P, C], uniform at first
    for shown, real in zip(history.swapaxes(0, 1), mask.T, strict=True):
      wants = _spread(wants, 1 - drift)
      # How likely what is shown is, of each want.
      likely = _spread(np.eye(size)[shown[:, attribute]], fidelity)  # [P, C]
      wants *= np.where(real[:, None], likely, 1)
      wants /= wants.sum(-1, keepdims=True)
    found.append(_spread(wants, 1 - drift))
  return found


def sharpened(probabilities: np.ndarray, power: float) -> np.ndarray:
  """Returns probabilities [..., C] to a power, again with a sum of 1.

  What guidance over temperature makes of a model that knows them.
  """
  raised = probabilities**power
  return raised / raised.sum(-1, keepdims=True)


def best_guess(
  history: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Returns an unseen item of the likeliest attributes: [P, 5] int.

  Args:
    history: [P, N, 5] int, attributes of the items shown.
    mask: [P, N] bool, True = a real item.
    rng: of background and size.
  """
  likeliest = [p.argmax(-1)[:, None] for p in predictive(history, mask)]
  return _unseen(np.stack(likeliest, -1), history, mask, rng)[:, 0]


def ideal_samples(
  history: np.ndarray,
  mask: np.ndarray,
  num_samples: int,
  rng: np.random.Generator,
  *,
  power: float = 1.0,
  repeats: bool = False,
) -> np.ndarray:
  """Returns items sampled from the posterior predictive: [P, G, 5] int.

  What a perfect model of the data samples, by default at temperature 1 and
  without guidance.

  Args:
    history: [P, N, 5] int, attributes of the items shown.
    mask: [P, N] bool, True = a real item.
    num_samples: G, each independent of the others.
    rng: of the samples.
    power: see `sharpened`.
    repeats: of a model that knows all but that no item comes twice.
  """
  shape = (len(history), num_samples)
  columns = []
  for probabilities in predictive(history, mask):
    # The inverse of the distribution function.
    ends = sharpened(probabilities, power).cumsum(-1)[:, None]  # [P, 1, C]
    below = rng.random(shape)[..., None] > ends[..., :-1]  # [P, G, C - 1]
    columns.append(below.sum(-1))  # [P, G]
  refused = mask & (not repeats)
  return _unseen(np.stack(columns, -1), history, refused, rng)


def _unseen(
  wanted: np.ndarray,
  history: np.ndarray,
  mask: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Adds a background and a size that the history does not show with them.

  [P, G, 3] int -> [P, G, 5] int.
  """
  attrs = np.zeros((*wanted.shape[:2], len(world.COUNTS)), np.int64)
  attrs[..., world.WANTED] = wanted
  todo = np.ones(wanted.shape[:2], bool)  # [P, G]
  # Ends: there are 18 items of the same wanted attributes, and far fewer shown.
  while todo.any():
    for attribute in world.FREE:
      fresh = rng.integers(world.COUNTS[attribute], size=todo.shape)
      attrs[..., attribute] = np.where(todo, fresh, attrs[..., attribute])
    same = (attrs[:, :, None] == history[:, None]).all(-1)  # [P, G, N]
    todo = (same & mask[:, None]).any(-1)
  return attrs


def items(
  history: np.ndarray, mask: np.ndarray, *, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
  """Returns the numbers of the items that each oracle shows.

  {row: [P, 1] or [P, G] int}, rows of `rows.ORACLES`; see `best_guess` and
  `ideal_samples`.
  """
  rng = np.random.default_rng(seed)
  guess = best_guess(history, mask, rng)[:, None]
  samples = ideal_samples(history, mask, num_samples, rng)
  return {
    "oracle_best_guess": world.item_index(guess),
    "oracle_ideal_sample": world.item_index(samples),
  }


def ranks(history: np.ndarray, mask: np.ndarray, users: Rows) -> np.ndarray:
  """Returns the rank of each user's next item by the exact posterior: [P].

  Items of the same wanted attributes are alike, and share their mean rank.

  Args:
    history: [P, N, 5] int, attributes of the items shown.
    mask: [P, N] bool, True = a real item.
    users: the same P users' items by number.
  """
  seen = ranking_scores.seen_mask(users.seen, world.NUM_ITEMS)
  return retrieval.ranks(scores(history, mask), seen, users.target)


def scores(history: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns how likely each item of the world is the next one: [P, items].

  Args:
    history: [P, N, 5] int, attributes of the items shown.
    mask: [P, N] bool, True = a real item.
  """
  attrs = world.attributes(np.arange(world.NUM_ITEMS))  # [items, 5]
  free = np.prod([world.COUNTS[attribute] for attribute in world.FREE])
  likely = np.full((len(history), world.NUM_ITEMS), 1 / free)
  for attribute, p in zip(world.WANTED, predictive(history, mask), strict=True):
    likely *= p[:, attrs[:, attribute]]
  return likely
