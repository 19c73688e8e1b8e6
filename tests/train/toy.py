"""A tiny task for the loop: a linear fit, on a real grain iterator.

Run as a program it trains in a process of its own, so that a test can kill it:
python -m tests.train.toy WORKDIR
"""

import dataclasses
import functools
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.types import TrainState
from genrec_jax.runtime import distributed
from genrec_jax.train import loop, optimizers

CONFIG = '{"seed": 0, "optim": {"lr": 0.01}, "workdir": "x"}'
SCHEDULE = loop.Schedule(
  steps=12, log_every=2, eval_every=4, checkpoint_every=3, keep=2
)
SPECS = {"fit": {"kernel": jax.P(None, "model"), "bias": jax.P("model")}}


def examples(index: int) -> dict[str, np.ndarray]:
  """Returns a random input [4] and its target [8]."""
  rng = np.random.default_rng(index)
  x = rng.normal(size=4).astype(np.float32)
  return {"x": x, "y": np.tile(x, 2) + 1}


def batches(num_rows: int | None = None):
  """Returns a grain iterator of batches of 8; endless unless `num_rows`."""
  data = grain.MapDataset.range(num_rows or 40).shuffle(seed=1)
  data = data if num_rows else data.repeat()
  return iter(data.map(examples).batch(8).to_iter_dataset())


OPTIMIZER = optimizers.adamw(
  lr=0.01,
  b1=0.9,
  b2=0.95,
  weight_decay=0.1,
  warmup_steps=3,
  decay_steps=0,
  grad_norm=1.0,
)


def loss_fn(params, frozen, batch):
  guess = batch["x"] @ params["fit"]["kernel"] + params["fit"]["bias"][None]
  return frozen["scale"] * jnp.mean((guess - batch["y"]) ** 2)


def train_step(state, frozen, batch):
  key = jax.random.fold_in(jax.random.key(0), state.step)
  noise = 0.1 * jax.random.normal(key, batch["x"].shape)
  loss, grads = jax.value_and_grad(loss_fn)(
    state.params, frozen, batch | {"x": batch["x"] + noise}
  )
  updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
  metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state), metrics


@functools.cache
def compiled(mesh, ballast: int):
  """Returns the layout of the state and the jitted functions."""
  params = {"fit": {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(8)}}
  specs = dict(SPECS)
  if ballast:
    specs["ballast"] = {"kernel": jax.P(None, "model")}
    noise = np.random.default_rng(0).normal(size=(ballast, 8))  # no zip
    params["ballast"] = {"kernel": noise.astype(np.float32)}
  state = TrainState(jnp.int32(0), params, OPTIMIZER.init(params))
  layout = sharding.shardings(mesh, sharding.specs_like_params(specs, state))
  # JAX shares its cache between jits of one function; a partial is its own.
  step = jax.jit(
    functools.partial(train_step),
    donate_argnums=0,
    out_shardings=(layout, None),
  )
  return jax.device_get(state), layout, step, jax.jit(loss_fn)


def make_inputs(mesh=None, ballast: int = 0, **changes) -> loop.LoopInputs:
  """Returns inputs; `ballast` rows make its checkpoints slow to write."""
  mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
  state, layout, step, loss = compiled(mesh, ballast)
  held_out = distributed.put_global(
    jax.NamedSharding(mesh, sharding.BATCH),
    {k: np.stack([v] * 8) for k, v in examples(99).items()},
  )

  def evaluate(state, frozen):
    grid = np.full((4, 6, 3), int(state.step), np.uint8)
    return {"loss": loss(state.params, frozen, held_out)}, grid

  inputs = loop.LoopInputs(
    state=jax.device_put(state, layout),
    frozen=jax.device_put(
      {"scale": np.float32(1)}, jax.NamedSharding(mesh, jax.P())
    ),
    step=step,
    iterator=batches(),
    put=functools.partial(sharding.put_batch, mesh),
    evaluate=evaluate,
    finish=lambda state, frozen, workdir: None,
    headline="loss",
  )
  return dataclasses.replace(inputs, **changes)


def run(workdir, inputs=None, *, config_json=CONFIG, **changes):
  """Runs the loop in a folder; changes are of the schedule."""
  return loop.run(
    inputs or make_inputs(),
    dataclasses.replace(SCHEDULE, **changes),
    workdir=str(workdir),
    config_json=config_json,
  )


if __name__ == "__main__":
  run(sys.argv[1], make_inputs(ballast=200_000))
