"""Draws for held-out users and scores what was drawn.

One compiled draw and one compiled embedding serve every row of the table: rows
differ in parameters and prompts, never in shapes.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from genrec_jax import rewards, sampling
from genrec_jax.core import sharding
from genrec_jax.core.types import Batch, Prompt, PyTree
from genrec_jax.data import stream
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.windows import WindowSpec
from genrec_jax.evals import baselines
from genrec_jax.evals.held_out import (
  HeldOutBatch,
  concatenate,
  prepare,
  read_attributes,
  score,
)
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.runtime import compiler, distributed

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
  windows: Sequence[HeldOutBatch]
  catalogue: Sequence[np.ndarray]  # every item's picture, uint8 [h, w, 3]
  copy_threshold: float  # see `scores.clip_scores`
  seed: int  # of noise, shuffling, random items and bootstrap
  during: Sequence[
    HeldOutBatch
  ] = ()  # validation windows, for mid-run evaluation
  # (params, uint8 [P, h, w, 3]) -> the same through the model's image
  # tokenizer and back; see `make_reconstruct`.
  reconstruct: Callable[[PyTree, np.ndarray], jax.Array] | None = None
  population: str = "held-out users"  # of whom `windows` are
  warnings: tuple[str, ...] = ()  # on the page and in the summary


class Evaluation(NamedTuple):
  """What a model did for every user."""

  scores: dict[str, np.ndarray]  # metric -> [U] float64, NaN: undefined
  samples: np.ndarray  # [U', G, h, w, 3] uint8, of the first users
  embeds: np.ndarray  # [U, G, E] float32, of all
  shown: np.ndarray | None  # [U, G, 5] int, see `read_attributes`


def noise(seed: int) -> jax.Array:
  """Returns the key of evaluation, apart from that of every training step."""
  # Steps fold their number in; none has this one.
  return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))


def make_draw(
  model: Generator,
  sample: sampling.Sampling,
  *,
  to_rollout_layout: Callable[[PyTree], PyTree] = _same,
  mesh: Mesh | None = None,
) -> Callable[[PyTree, Prompt, jax.Array], jax.Array]:
  """Compiles (params, prompt, key) -> samples, uint8 [P, G, h, w, 3].

  Args:
    model: the generator.
    sample: how images are sampled.
    to_rollout_layout: lays out parameters for the decode loop, in the graph.
    mesh: over which the rows of a prompt are split; None: one device.
  """

  def draw(params, prompt, key):
    params = sampling.rollout_params(model, params, to_rollout_layout)
    pixels = sampling.generate_images(model, params, prompt, key, sample)
    return _to_bytes(pixels)

  compiled, put = _on(mesh, draw)
  return lambda params, prompt, key: compiled(params, put(prompt), key)


def make_reconstruct(
  model: Generator, *, mesh: Mesh | None = None
) -> Callable[[PyTree, np.ndarray], jax.Array]:
  """Compiles (params, uint8 [P, h, w, 3]) -> encoded and decoded, the same."""

  def reconstruct(params, images):
    codes = model.encode_pixels(params, images.astype(jnp.float32) / 255)
    pixels = sampling.decode_images(model, params, codes[:, None])[:, 0]
    return _to_bytes(pixels)

  compiled, put = _on(mesh, reconstruct)
  return lambda params, images: compiled(params, put(images))


def _to_bytes(pixels: jax.Array) -> jax.Array:
  return jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)


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
  device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
  options = compiler.options(device.platform)
  if mesh is None:
    return jax.jit(function, compiler_options=options), _same
  rows = NamedSharding(mesh, sharding.BATCH)
  put = functools.partial(distributed.put_global, rows)
  return jax.jit(
    sharding.trace_with_mesh(mesh, function), compiler_options=options
  ), put


def build(
  model: Generator,
  processor: Any,
  clip: Clip,
  clip_params: PyTree,
  clip_tokenizer: Any,
  dataset: Dataset,
  spec: WindowSpec,
  *,
  users: int,
  batch_size: int,
  sample: sampling.Sampling,
  copy_threshold: float,
  seed: int,
  to_rollout_layout: Callable[[PyTree], PyTree] = _same,
  mesh: Mesh | None = None,
  users_during: int = 0,
  warnings: Sequence[str] = (),
) -> Evaluator:
  """Reads the held-out users of a data set and compiles what judges them.

  Args:
    model: the generator; all rows of the table have its architecture.
    processor: of its checkpoint.
    clip: the judge.
    clip_params: its parameters, on the devices.
    clip_tokenizer: of its checkpoint.
    dataset: see `dataset.load`.
    spec: of the windows and the prompt.
    users: held-out users, at most.
    batch_size: P, users drawn for at once.
    sample: how images are sampled.
    copy_threshold: see `scores.clip_scores`.
    seed: see `Evaluator`.
    to_rollout_layout: see `make_draw`.
    mesh: see `make_draw`.
    users_during: held-out users of mid-run evaluations, at most. Their windows
      are those of the validation split, so that what is seen, and perhaps
      chosen by, during a run is not what is reported at its end.
    warnings: what a reader of the results has to know; see `Evaluator`.
  """
  embed = make_embed(clip, clip_params, mesh=mesh)

  def windows(split, number):
    batches = stream.eval_batches(
      dataset,
      processor,
      clip_tokenizer,
      spec,
      batch_size=batch_size,
      num_users=number,
      split=split,
    )
    return prepare(batches, embed.targets, batch_size)

  return Evaluator(
    draw=make_draw(
      model, sample, to_rollout_layout=to_rollout_layout, mesh=mesh
    ),
    embed=embed,
    windows=windows("test", users),
    catalogue=baselines.Catalogue(dataset.items, processor.crop),
    copy_threshold=copy_threshold,
    seed=seed,
    during=windows("validation", users_during) if users_during else (),
    reconstruct=make_reconstruct(model, mesh=mesh),
    population=population(dataset),
    warnings=tuple(warnings),
  )


def population(dataset: Dataset) -> str:
  """Returns whom evaluation is about, to stand after a number.

  A data set with held-out users is evaluated on them; of any other all users
  are trained on, but for their last items.
  """
  held_out = dataset.index.held_out
  return "held-out users" if held_out else "users' held-out last items"


def evaluate_model(
  draw: Draw,
  embed: Embed,
  windows: Sequence[HeldOutBatch],
  key: jax.Array,
  *,
  copy_threshold: float,
  keep: int = 0,
  done: Callable[[int], None] = lambda users: None,
) -> Evaluation:
  """Draws for every user and scores what was drawn.

  Args:
    draw: (prompt, key) -> uint8 [P, G, h, w, 3].
    embed: see `make_embed`.
    windows: see `windows.prepare`.
    key: PRNG key; window number i folds i in, so models share their noise.
    copy_threshold: see `scores.clip_scores`.
    keep: return the samples of that many users, the first.
    done: called with the number of users of each window, once it is scored.
  """
  found, kept, all_embeds, all_shown = [], [], [], []
  for index, window in enumerate(windows):
    images = distributed.to_host(
      draw(window.batch.prompt, jax.random.fold_in(key, index))
    )
    embeds = distributed.to_host(embed.images(images)).astype(np.float32)
    shown = read_attributes(window, images)
    found.append(score(window, embeds, shown, copy_threshold))
    all_embeds.append(embeds[: window.count])
    if shown is not None:
      all_shown.append(shown[: window.count])
    if sum(map(len, kept)) < keep:
      kept.append(images[: window.count])
    done(window.count)
  return Evaluation(
    concatenate(found),
    np.concatenate(kept)[:keep] if kept else np.zeros(0),
    np.concatenate(all_embeds),
    np.concatenate(all_shown) if all_shown else None,
  )
