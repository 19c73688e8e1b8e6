import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.train import optimizers


def make(**changes):
  options = {
    "lr": 0.1,
    "b1": 0.9,
    "b2": 0.95,
    "weight_decay": 0.0,
    "warmup_steps": 4,
    "decay_steps": 0,
    "grad_norm": 1e9,
  }
  return optimizers.adamw(**options | changes)


def test_the_learning_rate_warms_up_from_above_zero():
  optimizer, params = make(), {"bias": jnp.zeros(1)}
  state = optimizer.init(params)
  for expected in (0.025, 0.05, 0.075, 0.1, 0.1):
    updates, state = optimizer.update({"bias": jnp.ones(1)}, state, params)
    # A constant gradient makes Adam's step the learning rate.
    np.testing.assert_allclose(updates["bias"], -expected, rtol=1e-5)


def test_the_learning_rate_falls_as_half_a_cosine():
  optimizer = make(warmup_steps=0, decay_steps=4)
  params = {"bias": jnp.zeros(1)}
  state = optimizer.init(params)
  for share in (1.0, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0.0, 0.0):
    updates, state = optimizer.update({"bias": jnp.ones(1)}, state, params)
    np.testing.assert_allclose(
      updates["bias"], -0.1 * share, rtol=1e-5, atol=1e-8
    )


def test_the_updates_of_a_step_share_its_learning_rate():
  optimizer = make(warmup_steps=2, decay_steps=4, updates_per_step=3)
  params = {"bias": jnp.zeros(1)}
  state = optimizer.init(params)
  fall = [1.0, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0.0]
  for step, share in enumerate(fall):
    for _ in range(3):
      updates, state = optimizer.update({"bias": jnp.ones(1)}, state, params)
      np.testing.assert_allclose(
        updates["bias"],
        -0.1 * share * min(1, (step + 1) / 2),
        rtol=1e-5,
        atol=1e-8,
      )


def test_without_warmup_the_first_step_is_whole():
  optimizer, params = make(warmup_steps=0), {"bias": jnp.zeros(1)}
  updates, _ = optimizer.update(
    {"bias": jnp.ones(1)}, optimizer.init(params), params
  )
  np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)


def test_only_kernels_and_their_adapters_decay():
  optimizer = make(weight_decay=0.5, warmup_steps=0)
  params = {
    "q_proj": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)},
    "adapted": {
      "lora_a": jnp.full((2, 1), 2.0),
      "lora_b": jnp.full((1, 3), 2.0),
    },
    "norm": {"scale": jnp.ones((2, 3))},
    "embed": {"embedding": jnp.ones((2, 3))},
  }
  grads = {name: {k: 0 * v for k, v in d.items()} for name, d in params.items()}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  for name, leaf in (
    ("q_proj", "kernel"),
    ("adapted", "lora_a"),
    ("adapted", "lora_b"),
  ):
    np.testing.assert_allclose(updates[name][leaf], -0.1, rtol=1e-6)
  for name, leaf in (
    ("q_proj", "bias"),
    ("norm", "scale"),
    ("embed", "embedding"),
  ):
    assert not updates[name][leaf].any()


@pytest.mark.parametrize("size", [0.5, 100.0])
def test_the_global_norm_is_clipped(size):
  params = {"a": jnp.zeros(1), "b": {"kernel": jnp.zeros((1, 1))}}
  optimizer = make(grad_norm=1.0)
  grads = {
    "a": jnp.full(1, 0.6 * size),
    "b": {"kernel": jnp.full((1, 1), 0.8 * size)},
  }
  _, state = optimizer.update(grads, optimizer.init(params), params)
  moments = state[1][0].mu
  total = np.hypot(moments["a"][0], moments["b"]["kernel"][0, 0])
  np.testing.assert_allclose(total, 0.1 * min(size, 1), rtol=1e-5)
