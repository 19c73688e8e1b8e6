"""Large batches in little memory: P prompts, P / M of them at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree


def each(
  function: Callable[..., PyTree], parts: int, *inputs: PyTree
) -> PyTree:
  """Maps a function of prompts over M parts of them, one after another.

  Args:
    function: of trees of arrays [P / M, ...], to another such tree.
    parts: M, a divisor of P.
    *inputs: trees of arrays [P, ...].

  Returns:
    The results for all P prompts, in their order.
  """
  if parts == 1:
    return function(*inputs)
  return jax.tree.map(
    _join, jax.lax.map(lambda part: function(*part), _split(parts, inputs))
  )


def value_and_grad(
  loss_fn: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
  parts: int,
  params: PyTree,
  *inputs: PyTree,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], PyTree]:
  """Differentiates a mean over P prompts in M parts, one after another.

  Args:
    loss_fn: maps params and trees of arrays [P / M, ...] to a loss that is a
      mean over prompts, and a dict of metrics [] and of what each prompt is to
      leave behind, [P / M, ...].
    parts: M, a divisor of P.
    params: what to differentiate by.
    *inputs: trees of arrays [P, ...].

  Returns:
    ((loss [], dict), gradients): metrics are [M] each, what prompts leave is
    [P, ...] in their order. Loss and gradients are those of all P prompts at
    once, within rounding; gradients add up in their own type.
  """
  differentiate = jax.value_and_grad(loss_fn, has_aux=True)
  if parts == 1:
    (loss, metrics), grads = differentiate(params, *inputs)
    return (loss, jax.tree.map(jnp.atleast_1d, metrics)), grads

  def step(total, part):
    found, grads = differentiate(params, *part)
    return jax.tree.map(jnp.add, total, grads), found

  start = jax.tree.map(jnp.zeros_like, params)
  total, (losses, metrics) = jax.lax.scan(step, start, _split(parts, inputs))
  grads = jax.tree.map(lambda x: x / parts, total)
  left = {k: x if x.ndim == 1 else _join(x) for k, x in metrics.items()}
  return (losses.mean(), left), grads


def _split(parts: int, inputs: Any) -> Any:
  """Splits [P, ...] into [M, P / M, ...], every M-th prompt in a part.

  So each device goes on working on the prompts that it holds.
  """

  def split(x):
    shape = (x.shape[0] // parts, parts, *x.shape[1:])
    return x.reshape(shape).swapaxes(0, 1)

  return jax.tree.map(split, inputs)


def _join(x: jax.Array) -> jax.Array:
  """Undoes `_split` for one array: [M, P / M, ...] to [P, ...]."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
