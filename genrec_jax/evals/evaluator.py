"""Draws for held-out users and scores what was drawn.

One compiled draw and one compiled embedding serve every row of the table: rows
differ in parameters and prompts, never in shapes.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from genrec_jax import rewards, sampling
from genrec_jax.core import distributed, sharding
from genrec_jax.core.types import Batch, Prompt, PyTree
from genrec_jax.data import builders, pipeline
from genrec_jax.evals import baselines
from genrec_jax.evals.windows import Window, concatenate, prepare, score
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip

Draw = Callable[[Prompt, jax.Array], jax.Array]  # uint8 [P, G, h, w, 3]


def _same(tree: PyTree) -> PyTree:
  return tree


class Embed(NamedTuple):
  """CLIP, compiled; takes numpy arrays."""

  images: Callable[[np.ndarray], jax.Array]  # uint8 [P, G, h, w, 3]: [P, G, E]
  targets: Callable[[Batch], rewards.Targets]


class Evaluator(NamedTuple):
  """Everything that evaluating takes, but for parameters."""

  draw: Callable[[PyTree, Prompt, jax.Array], jax.Array]  # see `make_draw`
  embed: Embed
  windows: Sequence[Window]
  catalogue: Sequence[np.ndarray]  # every item's picture, uint8 [h, w, 3]
  copy_threshold: float  # see `scores.clip_scores`
  seed: int  # of noise, shuffling, random items and bootstrap
  during: Sequence[Window] = ()  # validation windows, for mid-run evaluation


class Evaluation(NamedTuple):
  """What a model did for every user."""

  scores: dict[str, np.ndarray]  # metric -> [U] float64, NaN: undefined
  samples: np.ndarray  # [U', G, h, w, 3] uint8, of the first users


def noise(seed: int) -> jax.Array:
  """Returns the key of evaluation, apart from that of every training step."""
  # Steps fold their number in; none has this one.
  return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))


def make_draw(
  model: Generator,
  *,
  gather: Callable[[PyTree], PyTree] = _same,
  mesh: Mesh | None = None,
  **sample: Any,
) -> Callable[[PyTree, Prompt, jax.Array], jax.Array]:
  """Compiles (params, prompt, key) -> samples, uint8 [P, G, h, w, 3].

  Args:
    model: the generator.
    gather: lays out parameters for the decode loop, in the graph.
    mesh: over which the rows of a prompt are split; None: one device.
    **sample: options of `sampling.sample_images`.
  """

  def draw(params, prompt, key):
    params = sampling.rollout_params(model, params, gather)
    pixels = sampling.draw_images(model, params, prompt, key, **sample)
    return jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)

  compiled, put = _on(mesh, draw)
  return lambda params, prompt, key: compiled(params, put(prompt), key)


def make_embed(
  clip: Clip, params: PyTree, *, mesh: Mesh | None = None
) -> Embed:
  """Compiles CLIP for pictures and for the targets of a batch.

  Args:
    clip: the judge.
    params: its parameters, on the devices.
    mesh: over which rows are split; None: one device.
  """

  def images(params, pixels):
    return clip.embed_images(params, pixels.astype(jnp.float32) / 255)

  def targets(params, batch):
    return rewards.embed_targets(clip, params, batch)

  images, put = _on(mesh, images)
  targets, _ = _on(mesh, targets)
  return Embed(
    images=lambda pixels: images(params, put(pixels)),
    targets=lambda batch: targets(params, put(batch)),
  )


def _on(mesh, function):
  """Returns a function compiled for a mesh, and what puts its rows there."""
  if mesh is None:
    return jax.jit(function), _same
  rows = NamedSharding(mesh, sharding.BATCH)
  put = functools.partial(distributed.put_whole, rows)
  return jax.jit(sharding.on(mesh, function)), put


def build(
  model: Generator,
  processor: Any,
  clip: Clip,
  clip_params: PyTree,
  clip_tokenizer: Any,
  dataset: builders.Dataset,
  *,
  history_length: int,
  future_horizon: int,
  instruction: str,
  short_histories: str = "pad",
  users: int,
  batch_size: int,
  sample: Mapping[str, Any],
  copy_threshold: float,
  seed: int,
  gather: Callable[[PyTree], PyTree] = _same,
  mesh: Mesh | None = None,
  users_during: int = 0,
) -> Evaluator:
  """Reads the held-out users of a data set and compiles what judges them.

  Args:
    model: the generator; all rows of the table have its architecture.
    processor: of its checkpoint.
    clip: the judge.
    clip_params: its parameters, on the devices.
    clip_tokenizer: of its checkpoint.
    dataset: see `builders.load`.
    history_length: N.
    future_horizon: F.
    instruction: what the prompt asks for.
    short_histories: see `pipeline.windows`.
    users: held-out users, at most.
    batch_size: P, users drawn for at once.
    sample: options of `sampling.sample_images`.
    copy_threshold: see `scores.clip_scores`.
    seed: see `Evaluator`.
    gather: see `make_draw`.
    mesh: see `make_draw`.
    users_during: held-out users of mid-run evaluations, at most. Their windows
      are those of the validation split, so that what is seen, and perhaps
      chosen by, during a run is not what is reported at its end.
  """
  embed = make_embed(clip, clip_params, mesh=mesh)

  def windows(split, number):
    batches = pipeline.eval_batches(
      dataset,
      processor,
      clip_tokenizer,
      history_length=history_length,
      future_horizon=future_horizon,
      batch_size=batch_size,
      num_users=number,
      instruction=instruction,
      short_histories=short_histories,
      split=split,
    )
    return prepare(batches, embed.targets, batch_size)

  return Evaluator(
    draw=make_draw(model, gather=gather, mesh=mesh, **sample),
    embed=embed,
    windows=windows("test", users),
    catalogue=baselines.Catalogue(dataset.items, processor.pixels),
    copy_threshold=copy_threshold,
    seed=seed,
    during=windows("validation", users_during) if users_during else (),
  )


def evaluate_model(
  draw: Draw,
  embed: Embed,
  windows: Sequence[Window],
  key: jax.Array,
  *,
  copy_threshold: float,
  prompts: Sequence[Prompt] | None = None,
  keep: int = 0,
) -> Evaluation:
  """Draws for every user and scores what was drawn.

  Args:
    draw: (prompt, key) -> uint8 [P, G, h, w, 3].
    embed: see `make_embed`.
    windows: see `windows.prepare`.
    key: PRNG key; window number i folds i in, so models share their noise.
    copy_threshold: see `scores.clip_scores`.
    prompts: shown instead of the windows' own, for shuffled histories.
    keep: return the samples of that many users, the first.
  """
  prompts = prompts or [window.batch.prompt for window in windows]
  found, kept = [], []
  for index, (window, prompt) in enumerate(zip(windows, prompts, strict=True)):
    images = distributed.fetch(draw(prompt, jax.random.fold_in(key, index)))
    embeds = distributed.fetch(embed.images(images)).astype(np.float32)
    found.append(score(window, embeds, images, copy_threshold))
    if sum(map(len, kept)) < keep:
      kept.append(images[: window.count])
  return Evaluation(
    concatenate(found), np.concatenate(kept)[:keep] if kept else np.zeros(0)
  )
