"""Supervised fine-tuning: history -> codes of the real next item."""

import functools

import jax
import jax.numpy as jnp
import optax

from genrec_jax import sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Batch, PyTree, TrainState
from genrec_jax.models.api import Generator
from genrec_jax.train import microbatch, setup


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  optimizer: optax.GradientTransformation,
  seed: int,
  microbatches: int,
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
    microbatches: equal parts of the P that memory holds one of at a time.
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

  def loss_fn(trainable, prompt, dropped, codes):
    params = tree.merge(trainable, rest)
    embeds = jnp.where(
      dropped[:, None, None],
      model.embed(params, model.unconditional(prompt)),
      model.embed(params, prompt),
    )
    codes = codes[:, None]

    def score(hidden, codes):
      logits = model.image_vocabulary.logits(params, hidden)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
      return losses, jnp.argmax(logits, -1) == codes

    hidden = model.teacher_forced_hidden(params, embeds, prompt.mask, codes)
    losses, right = sampling.map_logits(model, score, hidden, codes)
    return losses.mean(), {"code_accuracy": right.mean()}

  (loss, metrics), grads = microbatch.value_and_grad(
    loss_fn, microbatches, state.params, prompt, dropped, codes
  )
  metrics = {name: values.mean() for name, values in metrics.items()}
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state), metrics


def make_step(config, plan: setup.Plan):
  """Returns the step of a config: (state, frozen, batch) -> ..."""
  return functools.partial(
    train_step,
    model=plan.model,
    optimizer=plan.optimizer,
    seed=config.seed,
    microbatches=config.data.microbatches,
    **config.sft,
  )


def run(config, workdir: str) -> None:
  """Fine-tunes `config.model.checkpoint`; see configs/sft.py."""
  parts = setup.build(
    config,
    sample=sampling.Sampling(**config.sample),
    copy_threshold=config.eval.copy_threshold,
  )
  setup.train(
    config,
    workdir,
    parts,
    parts.frozen,
    make_step(config, parts.plan),
    headline="loss",
  )
