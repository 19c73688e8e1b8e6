"""Training of SASRec, inside an evaluation: seconds to minutes.

It stops by itself: the last training item of some users is held back, and the
parameters that rank it best are kept.

Letters: B rows, T positions, I items, K sampled items, E events.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from genrec_jax.evals import retrieval
from genrec_jax.evals.recommenders import interactions as interactions_lib
from genrec_jax.evals.recommenders import ranking
from genrec_jax.evals.recommenders.interactions import Interactions, Scorer
from genrec_jax.evals.recommenders.sasrec import SASRec, loss
from genrec_jax.runtime import progress


@dataclasses.dataclass(frozen=True)
class Options:
  """Sizes and stopping of SASRec.

  Chosen by validation items of MovieLens latest-small, where two layers, or a
  width of 128 with less dropout, are worse; the synthetic world agrees.
  """

  length: int  # of the longest history that is read
  width: int = 64
  num_layers: int = 1
  num_heads: int = 1
  dropout: float = 0.5  # the paper's for sparse data
  lr: float = 1e-3  # the paper's
  batch_size: int = 64
  sampled: int = 256  # items in the softmax besides the target
  steps: int = 4000  # at most
  check_every: int = 100  # steps between looks at what is held back
  patience: int = 4  # looks without a better one until it stops
  held_back: int = 512  # users, at most, whose last item is held back


def sasrec(
  interactions: Interactions, options: Options, *, seed: int = 0
) -> Scorer:
  """Trains SASRec and returns its scores of users' next items.

  Prints a line on how far it is. Without anyone who has two items there is
  nothing to learn, and the scores are those of random parameters.

  Args:
    interactions: to learn from.
    options: see `Options`.
    seed: of parameters, batches and dropout.
  """
  model = SASRec(
    interactions.num_items,
    options.length,
    options.width,
    options.num_layers,
    options.num_heads,
    options.dropout,
  )
  read = jax.jit(functools.partial(_last_logits, model))

  def scorer(params: Any) -> Scorer:
    return functools.partial(_score, read, params, options.length)

  key = jax.random.key(seed)
  params = jax.jit(model.init)(key, np.zeros((1, options.length), np.int32))
  params = params["params"]
  learned, asked, answers = _hold_back(interactions, options.held_back, seed)
  places = _target_places(learned)  # [events that can be predicted]
  if not len(places):
    return scorer(params)
  optimizer = optax.adam(options.lr, b2=0.98)
  step = jax.jit(functools.partial(_step, model, optimizer))
  state, rng = optimizer.init(params), np.random.default_rng(seed)
  best, best_params, worse = -np.inf, params, 0
  tally = progress.Tally(options.steps, "steps at most")
  for number in range(1, options.steps + 1):
    batch = _batch(learned, places, rng, options)
    dropout = jax.random.fold_in(key, number)
    params, state = step(params, state, batch, dropout)
    tally.add("training SASRec", 1)
    if number % options.check_every:
      continue
    quality = _quality(scorer(params), asked, answers)
    worse = 0 if quality > best else worse + 1
    if not worse:
      best, best_params = quality, params
    if worse >= options.patience:
      break
  tally.clear()
  return scorer(best_params)


def _step(model, optimizer, params, state, batch, key):
  """Returns parameters and optimizer state after one step."""
  gradient = jax.grad(functools.partial(loss, model))(params, batch, key)
  updates, state = optimizer.update(gradient, state, params)
  return optax.apply_updates(params, updates), state


def _last_logits(model, params, items, lengths):
  """Returns scores [B, I] of what follows items [B, T], `lengths` [B] long."""
  states, table = model.apply({"params": params}, items)
  last = states[np.arange(len(items)), lengths - 1]  # [B, D]
  return last @ table.T


def _score(read, params, length, histories):
  """Returns the scores of the next item after histories; see `Scorer`."""
  recent = [history[-length:] for history in histories]
  # Filled up to powers of 2 of rows, so that few shapes are compiled.
  rows = 1 << (len(recent) - 1).bit_length()
  items = np.zeros((rows, length), np.int32)
  lengths = np.ones(rows, np.int32)
  for row, history in enumerate(recent):
    items[row, : len(history)] = history
    lengths[row] = max(len(history), 1)
  return np.asarray(read(params, items, lengths))[: len(recent)]


def _hold_back(
  interactions: Interactions, users: int, seed: int
) -> tuple[Interactions, Sequence[np.ndarray], np.ndarray]:
  """Takes the last item of some users away, to see when training is enough.

  Returns:
    What is left, these users' histories, and the items taken away, [users].
  """
  histories = np.split(interactions.items, interactions.starts[1:-1])
  # What is left of a history has to have a target.
  long = [user for user, items in enumerate(histories) if len(items) > 2]
  rng = np.random.default_rng(seed)
  some = rng.permutation(np.asarray(long, np.int64))[:users]
  answers = np.asarray([histories[user][-1] for user in some], np.int64)
  for user in some:
    histories[user] = histories[user][:-1]
  left = interactions_lib.of_histories(histories, interactions.num_items)
  return left, [histories[user] for user in some], answers


def _target_places(interactions: Interactions) -> np.ndarray:
  """Returns the events that have an event of the same user before them."""
  places = np.arange(len(interactions.items))
  first = np.isin(places, interactions.starts[:-1])
  return places[~first]


def _batch(
  interactions: Interactions,
  places: np.ndarray,
  rng: np.random.Generator,
  options: Options,
) -> dict[str, np.ndarray]:
  """Returns windows that end at random events, for `sasrec.loss`."""
  ends = rng.choice(places, options.batch_size)  # [B], the last targets
  starts = interactions.starts
  of_user = starts[np.searchsorted(starts, ends, side="right") - 1]  # [B]
  begins = np.maximum(of_user, ends - options.length)
  where = begins[:, None] + np.arange(options.length + 1)  # [B, T + 1]
  window = interactions.items[np.minimum(where, ends[:, None])]
  if interactions.num_items <= options.sampled:
    others = np.arange(interactions.num_items)
  else:
    others = rng.integers(interactions.num_items, size=options.sampled)
  return {
    "items": window[:, :-1].astype(np.int32),
    "targets": window[:, 1:].astype(np.int32),
    "mask": where[:, 1:] <= ends[:, None],
    "others": others.astype(np.int32),
  }


def _quality(
  score: Scorer, histories: Sequence[np.ndarray], answers: np.ndarray
) -> float:
  """Returns the mean reciprocal rank of the items held back.

  Smoother than a hit rate; the whole catalogue is ranked.
  """
  if not len(answers):
    return 0.0
  ranks = ranking.recommend(score, histories, histories, answers).ranks
  return float(retrieval.mrr(ranks).mean())
