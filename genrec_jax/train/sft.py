"""Supervised fine-tuning: history -> codes of the real next item."""

import functools

import jax
import jax.numpy as jnp
import optax

from genrec_jax.core import tree
from genrec_jax.core.types import Batch, PyTree, TrainState
from genrec_jax.models.api import Generator
from genrec_jax.train import setup


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  optimizer: optax.GradientTransformation,
  seed: int,
  condition_dropout: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one step on the next items' image codes.

  The codes come from the frozen VQ encoder, in the graph. The loss is the mean
  negative log-likelihood of a code, in nats; the prompt carries none.

  Args:
    state: trainable parameters, optimizer state, step; donated by the caller.
    frozen: 'generator', the rest of its parameters.
    batch: P windows.
    model: the generator.
    optimizer: of the trainable parameters.
    seed: of the run; the step's key is folded from it.
    condition_dropout: share of prompts replaced by the unconditional one, so
      that guidance has a branch to push away from.

  Returns:
    The next state, and metrics: float32 scalars.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  prompt, rest = batch.prompt, frozen["generator"]
  dropped = jax.random.bernoulli(key, condition_dropout, prompt.ids.shape[:1])
  pixels = batch.future[:, 0].astype(jnp.float32) / 255
  codes = model.encode_pixels(rest, pixels)

  def loss_fn(trainable):
    params = tree.merge(trainable, rest)
    embeds = jnp.where(
      dropped[:, None, None],
      model.embed(params, model.unconditional(prompt)),
      model.embed(params, prompt),
    )
    prefix = model.prefill(params, embeds, prompt.mask)
    logits = model.code_logits(params, prefix, codes[:, None])[:, 0]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == codes)
    return losses.mean(), {"code_accuracy": accuracy}

  (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state), metrics


def run(config, workdir: str) -> None:
  """Fine-tunes `config.model.checkpoint`; see configs/sft.py."""
  parts = setup.build(
    config,
    sample=dict(config.sample),
    copy_threshold=config.eval.copy_threshold,
  )
  step = functools.partial(
    train_step,
    model=parts.model,
    optimizer=parts.optimizer,
    seed=config.seed,
    **config.sft,
  )
  setup.train(
    config,
    workdir,
    parts,
    parts.frozen,
    step,
    headline="loss",
  )
