"""Microbatches: large batches in little memory, P / M prompts at a time.

Every M-th prompt is in a microbatch, so each device goes on working on the
prompts that it holds. Letters: P prompts, M microbatches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genrec_jax.core import chunks
from genrec_jax.core.types import PyTree


def map_prompts(
  function: Callable[..., PyTree], parts: int, *inputs: PyTree
) -> PyTree:
  """Maps a function of prompts over M microbatches, one after another.

  Args:
    function: of trees of arrays [P / M, ...], to another such tree.
    parts: M, a divisor of P.
    *inputs: trees of arrays [P, ...].

  Returns:
    The results for all P prompts, in their order.
  """
  return chunks.map_chunks(function, parts, *inputs, strided=True)


def value_and_grad(
  loss_fn: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
  parts: int,
  params: PyTree,
  *inputs: PyTree,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], PyTree]:
  """Differentiates a mean over P prompts by gradient accumulation.

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

  # Summed as they come: all M gradients at once would need the memory that
  # microbatches save.
  def step(total, part):
    aux, grads = differentiate(params, *part)
    return jax.tree.map(jnp.add, total, grads), aux

  split = jax.tree.map(
    lambda x: chunks.split_chunks(x, parts, strided=True), inputs
  )  # [M, P / M, ...]
  start = jax.tree.map(jnp.zeros_like, params)
  total, (losses, metrics) = jax.lax.scan(step, start, split)
  grads = jax.tree.map(lambda x: x / parts, total)
  # A metric [] has become [M]; anything larger is of prompts.
  metrics = {
    name: x if x.ndim == 1 else chunks.join_chunks(x, strided=True)
    for name, x in metrics.items()
  }
  return (losses.mean(), metrics), grads
