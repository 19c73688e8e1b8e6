"""Optimizer: AdamW and its learning rate, of a config's section `optim`."""

import jax
import jax.numpy as jnp
import optax

from genrec_jax.core.types import PyTree
from genrec_jax.nn import lora


def adamw(
  *,
  lr: float,
  b1: float,
  b2: float,
  weight_decay: float,
  warmup_steps: int,
  decay_steps: int,
  grad_norm: float,
  updates_per_step: int = 1,
) -> optax.GradientTransformation:
  """Returns AdamW behind a clip of the global gradient norm.

  The learning rate rises linearly to `lr` at step `warmup_steps`; the first
  step is taken at lr / warmup_steps, not at 0. Then it stays, or falls as half
  a cosine from step 0 to 0 at step `decay_steps`. Only kernels and adapters of
  kernels decay: norms, biases and embeddings do not.

  Args:
    lr: learning rate after the warm-up.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: decoupled, times the learning rate (Loshchilov and Hutter,
      arXiv 1711.05101).
    warmup_steps: 0 for none.
    decay_steps: 0 for none.
    grad_norm: the largest global norm that passes unscaled.
    updates_per_step: that share a step's learning rate: RL's inner epochs.
  """

  def schedule(count: jax.Array) -> jax.Array:
    step = count // updates_per_step
    # Step 0 is taken at lr / warmup_steps: at 0 it would teach nothing.
    rise = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
    if not decay_steps:
      return lr * rise
    # optax's cosine after a warm-up starts at its end, this one at step 0.
    fall = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, step / decay_steps))
    return lr * rise * fall

  return optax.chain(
    optax.clip_by_global_norm(grad_norm),
    # Behind the clip: Adam's moments are of clipped gradients.
    optax.adamw(schedule, b1, b2, weight_decay=weight_decay, mask=decay_mask),
  )


def decay_mask(params: PyTree) -> PyTree:
  """Returns a tree of bools: True where weight decay applies."""
  decaying = (lora.KERNEL, lora.A, lora.B)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in decaying, params
  )
