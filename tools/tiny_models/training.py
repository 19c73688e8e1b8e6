"""Optimisation loop and data of every stage: the synthetic world's items."""

from collections.abc import Callable, Iterator
import functools
import json
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.core.types import PyTree
from genrec_jax.data import world


def fit(
  loss_fn: Callable[..., Any],
  params: PyTree,
  batches: Iterator[Any],
  steps: int,
  *,
  lr: float,
  key: jax.Array,
  name: str,
  project: Callable[[PyTree], PyTree] = lambda params: params,
  weight_decay: float = 0.0,
) -> PyTree:
  """Minimises loss_fn(params, batch, key) -> (loss, metrics) with AdamW.

  One-cycle cosine schedule from 0 over lr to 0; `project` maps parameters back
  to where they belong after each update.
  """
  schedule = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule, b2=0.98, weight_decay=weight_decay),
  )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, batch, key):
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, batch, key
    )
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = project(optax.apply_updates(params, updates))
    return params, opt_state, metrics | {"loss": loss}

  params = jax.tree.map(jnp.copy, params)  # the step donates its arguments
  opt_state = optimizer.init(params)
  start = time.time()
  for i in range(steps):
    params, opt_state, metrics = step(
      params, opt_state, next(batches), jax.random.fold_in(key, i)
    )
    if i % 100 == 0 or i == steps - 1:
      text = " ".join(f"{k} {float(v):.4f}" for k, v in metrics.items())
      logging.info(
        "%s %d/%d %.0fs %s", name, i, steps, time.time() - start, text
      )
  return params


def epochs(
  arrays: tuple[np.ndarray, ...], batch: int, seed: int
) -> Iterator[tuple[np.ndarray, ...]]:
  """Yields shuffled batches of rows of the arrays, without end."""
  rng = np.random.default_rng(seed)
  while True:
    # Rows that do not fill the last batch are left to the next epoch.
    order = rng.permutation(len(arrays[0]))
    for start in range(0, len(order) - batch + 1, batch):
      rows = order[start : start + batch]
      yield tuple(array[rows] for array in arrays)


def renders() -> np.ndarray:
  """Returns every item of the world: uint8 [2880, 32, 32, 3]."""
  return world.render(world.attributes(np.arange(world.NUM_ITEMS)))


def titles() -> list[str]:
  """Returns the title of every item."""
  return [
    world.title(attrs) for attrs in world.attributes(np.arange(world.NUM_ITEMS))
  ]


def write_json(path: Path, value: Any) -> None:
  """Writes indented JSON."""
  path.write_text(json.dumps(value, indent=2) + "\n")
