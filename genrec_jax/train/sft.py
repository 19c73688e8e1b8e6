"""Supervised fine-tuning: history -> the real next item.

Which is the codes of its image or, with titles, its title and then those codes.
Letters: P prompts, T prompt tokens, I codes per image, C codebook, D width, W
tokens of a title, h w pixels.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genrec_jax import sampling
from genrec_jax.core import tree
from genrec_jax.core.types import Batch, Prompt, PyTree, Title, TrainState
from genrec_jax.groups import mean_of_tokens
from genrec_jax.models.api import Generator
from genrec_jax.train import microbatch, throughput
from genrec_jax.train.build import build
from genrec_jax.train.plan import Plan
from genrec_jax.train.run import train


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTOptions:
  """Options of `train_step`; configs/sft.py gives each value its reason.

  Attributes:
    seed: of the run; the step's key is folded from it.
    microbatches: equal parts of the P prompts that memory holds one of at a
      time.
    condition_dropout: share of prompts replaced by the unconditional one, so
      that guidance has a branch to push away from; the title is hidden with
      the history.
    image_weight: of the codes' loss, where answers begin with a title.
    title_weight: of the title's.
  """

  seed: int
  microbatches: int
  condition_dropout: float
  image_weight: float = 1.0
  title_weight: float = 1.0


def train_step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  model: Generator,
  optimizer: optax.GradientTransformation,
  options: SFTOptions,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one step on the next items: their codes, or titles and codes.

  The codes come from the frozen VQ encoder, in the graph. The loss is the mean
  negative log-likelihood of a code, in nats; the prompt carries none. With
  titles it is the weighted sum of that and of the same of a title's tokens.

  Args:
    state: trainable parameters, optimizer state, step; donated by the caller.
    frozen: 'generator_rest', the generator's other parameters.
    batch: P windows.
    model: the generator.
    optimizer: of the trainable parameters.
    options: see `SFTOptions`.

  Returns:
    The next state, and metrics: float32 scalars.
  """
  # No key is saved: a resumed run folds in the same step.
  key = jax.random.fold_in(jax.random.key(options.seed), state.step)
  prompt, rest = batch.prompt, frozen["generator_rest"]
  dropped = jax.random.bernoulli(
    key, options.condition_dropout, prompt.ids.shape[:1]
  )  # [P] bool, True = without its condition
  # The target is the next item, the first of the future.
  pixels = batch.future[:, 0].astype(jnp.float32) / 255  # [P, h, w, 3]
  # By the frozen tokenizer, outside the gradient.
  with jax.named_scope("targets"):
    codes = model.encode_pixels(rest, pixels)  # [P, I]

  @jax.named_scope("policy")
  def loss_fn(trainable, prompt, dropped, codes, title, counts):
    params = tree.merge(trainable, rest)
    embeds, mask = embed_with_dropout(model, params, prompt, dropped)
    if title is not None:
      seen = title.words & ~dropped[:, None, None]  # [P, 1, W]
      hidden = model.teacher_forced_hidden(
        params,
        embeds,
        mask,
        codes[:, None],
        dataclasses.replace(title, words=seen),
      )
      return item_loss(model, params, hidden, codes, title, counts, options)
    hidden = model.teacher_forced_hidden(
      params, embeds, mask, codes[:, None]
    )  # a group of one
    return code_loss(model, params, hidden, codes)

  (loss, metrics), grads = microbatch.value_and_grad(
    loss_fn,
    options.microbatches,
    state.params,
    prompt,
    dropped,
    codes,
    batch.title,
    title_counts(dropped),
  )
  metrics = {name: values.mean() for name, values in metrics.items()}
  with jax.named_scope("update"):
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
  metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
  return TrainState(state.step + 1, params, opt_state), metrics


def embed_with_dropout(
  model: Generator, params: PyTree, prompt: Prompt, dropped: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns embeddings [P, T, D] and mask [P, T], unconditional if `dropped`.

  Both are computed and one is taken: which rows [P] are dropped is not known
  when the step is compiled.
  """
  other = model.unconditional(prompt)
  embeds = jnp.where(
    dropped[:, None, None],
    model.embed(params, other),
    model.embed(params, prompt),
  )
  return embeds, jnp.where(dropped[:, None], other.mask, prompt.mask)


def title_counts(dropped: jax.Array) -> jax.Array:
  """Returns what each prompt's title counts [P]: 1 on average, 0 if hidden."""
  shown = ~dropped
  return shown * (len(shown) / jnp.maximum(jnp.sum(shown), 1))


def item_loss(
  model: Generator,
  params: PyTree,
  hidden: jax.Array,
  codes: jax.Array,
  title: Title,
  counts: jax.Array,
  options: SFTOptions,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the loss [] of titles and codes, weighted, and its metrics.

  Args:
    model: the generator.
    params: its parameters.
    hidden: [P, 1, W + I, D], before each token.
    codes: [P, I] int32.
    title: [P, 1, W], as it is; hidden ones, too.
    counts: [P], what each prompt's title counts.
    options: with the weights.

  Returns:
    The loss, and besides those of `code_loss`: `image_loss` and `title_loss`;
    `title_accuracy`, the share of a title's tokens, its end included, that are
    the likeliest; `title_cut`, the share of titles that are too long, whose end
    is not learned.
  """
  length = title.tokens.shape[-1]
  vocabulary = model.text_vocabulary

  def score(hidden, tokens):
    logits = vocabulary.logits(params, hidden)  # [P, 1, w, V]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    return losses, jnp.argmax(logits, -1) == tokens

  losses, right = sampling.map_logits(
    vocabulary, score, hidden[:, :, :length], title.tokens
  )  # [P, 1, W] both
  weighted = counts[:, None, None]
  title_loss = mean_of_tokens(weighted * losses, title.written)
  image_loss, metrics = code_loss(model, params, hidden[:, :, length:], codes)
  loss = options.image_weight * image_loss + options.title_weight * title_loss
  return loss, metrics | {
    "image_loss": image_loss,
    "title_loss": title_loss,
    "title_accuracy": mean_of_tokens(weighted * right, title.written),
    "title_cut": title.cut.astype(jnp.float32).mean(),
  }


def code_loss(
  model: Generator, params: PyTree, hidden: jax.Array, codes: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the mean negative log-likelihood [] of codes, in nats.

  Args:
    model: the generator.
    params: its parameters.
    hidden: [P, 1, I, D], before each code.
    codes: [P, I] int32.

  Returns:
    The loss, and `code_accuracy` []: the share of codes that are the likeliest
    given those before them.
  """
  codes = codes[:, None]  # [P, 1, I]: a group of one

  def score(hidden, codes):
    logits = model.image_vocabulary.logits(params, hidden)  # [P, 1, i, C]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    return losses, jnp.argmax(logits, -1) == codes

  # Over chunks of codes: the logits of all would not fit a device.
  losses, right = sampling.map_logits(
    model.image_vocabulary, score, hidden, codes
  )  # [P, 1, I]
  return losses.mean(), {"code_accuracy": right.mean()}


def make_step(config: Any, plan: Plan) -> Callable:
  """Returns the step of a config: (state, frozen, batch) -> ..."""
  return functools.partial(
    train_step,
    model=plan.model,
    optimizer=plan.optimizer,
    options=SFTOptions(
      seed=config.seed,
      microbatches=config.data.microbatches,
      **config.sft,
    ),
  )


def run(config: Any, workdir: str) -> None:
  """Fine-tunes `config.model.checkpoint`; see configs/sft.py."""
  parts = build(
    config,
    sample=sampling.Sampling(**config.sample),
    copy_threshold=config.eval.copy_threshold,
  )
  step = make_step(config, parts.plan)
  work = throughput.work(
    throughput.count_weights(parts.plan.model),
    samples=1,
    codes=parts.plan.answer_tokens,
    **parts.prompt_sizes,
  )
  train(config, workdir, parts, step, headline="loss", work=work)
