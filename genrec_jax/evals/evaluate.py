"""Evaluation: of any checkpoint as a task, during training, and at its end.

One compiled draw and one compiled embedding serve every row of the table: rows
differ in parameters and prompts, never in shapes.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax import rewards, sampling
from genrec_jax.core.types import Batch, Prompt, PyTree
from genrec_jax.data import builders, pipeline, world
from genrec_jax.evals import baselines, page, report, scores
from genrec_jax.evals.examples import examples
from genrec_jax.evals.windows import Window, grid, prepare, shuffled_prompts
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


class Evaluation(NamedTuple):
  """What a model did for every user."""

  scores: dict[str, np.ndarray]  # metric -> [U] float64, NaN: undefined
  samples: np.ndarray  # [U', G, h, w, 3] uint8, of the first users


def make_draw(
  model: Generator,
  *,
  gather: Callable[[PyTree], PyTree] = _same,
  put: Callable[[PyTree], PyTree] = _same,
  **sample: Any,
) -> Callable[[PyTree, Prompt, jax.Array], jax.Array]:
  """Compiles (params, prompt, key) -> samples, uint8 [P, G, h, w, 3].

  Args:
    model: the generator.
    gather: lays out parameters for the decode loop, in the graph.
    put: puts what is on the host on the devices.
    **sample: options of `sampling.sample_images`.
  """

  @jax.jit
  def compiled(params, prompt, key):
    pixels = sampling.draw_images(model, gather(params), prompt, key, **sample)
    return jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)

  return lambda params, prompt, key: compiled(params, put(prompt), key)


def make_embed(
  clip: Clip, params: PyTree, *, put: Callable[[PyTree], PyTree] = _same
) -> Embed:
  """Compiles CLIP for pictures and for the targets of a batch.

  Args:
    clip: the judge.
    params: its parameters, on the devices.
    put: puts what is on the host on the devices.
  """

  @jax.jit
  def images(params, pixels):
    return clip.embed_images(params, pixels.astype(jnp.float32) / 255)

  @jax.jit
  def targets(params, batch):
    return rewards.embed_targets(clip, params, batch)

  return Embed(
    images=lambda pixels: images(params, put(pixels)),
    targets=lambda batch: targets(params, put(batch)),
  )


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
  users: int,
  batch_size: int,
  sample: Mapping[str, Any],
  copy_threshold: float,
  seed: int,
  gather: Callable[[PyTree], PyTree] = _same,
  put: Callable[[PyTree], PyTree] = _same,
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
    users: held-out users, at most.
    batch_size: P, users drawn for at once.
    sample: options of `sampling.sample_images`.
    copy_threshold: see `scores.clip_scores`.
    seed: see `Evaluator`.
    gather: see `make_draw`.
    put: see `make_draw`.
  """
  embed = make_embed(clip, clip_params, put=put)
  batches = pipeline.eval_batches(
    dataset,
    processor,
    clip_tokenizer,
    history_length=history_length,
    future_horizon=future_horizon,
    batch_size=batch_size,
    num_users=users,
    instruction=instruction,
  )
  return Evaluator(
    draw=make_draw(model, gather=gather, put=put, **sample),
    embed=embed,
    windows=prepare(batches, embed.targets, batch_size),
    catalogue=baselines.Catalogue(dataset.items, processor.pixels),
    copy_threshold=copy_threshold,
    seed=seed,
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
    images = np.asarray(draw(prompt, jax.random.fold_in(key, index)))
    embeds = np.asarray(embed.images(images), np.float32)
    found.append(score(window, embeds, images, copy_threshold))
    if sum(map(len, kept)) < keep:
      kept.append(images[: window.count])
  return Evaluation(
    _concatenate(found), np.concatenate(kept)[:keep] if kept else np.zeros(0)
  )


def score(
  window: Window,
  embeds: np.ndarray,
  images: np.ndarray,
  copy_threshold: float,
) -> dict[str, np.ndarray]:
  """Scores samples of one window: embeds [P, G, E], uint8 [P, G, h, w, 3].

  Returns:
    {metric: [count] float64}; what needs the truth only where it is known.
  """
  targets = window.targets
  result = scores.clip_scores(
    embeds,
    targets.history,
    targets.history_mask,
    targets.future,
    targets.future_mask,
    targets.text,
    copy_threshold,
  )
  if window.wants is not None:
    shown = world.read(images.reshape(-1, *images.shape[2:]))
    result |= scores.truth_scores(
      shown.reshape(*images.shape[:2], -1),
      window.attributes,
      targets.history_mask,
      window.wants,
    )
  return {name: values[: window.count] for name, values in result.items()}


def score_baselines(
  embed: Embed,
  windows: Sequence[Window],
  catalogue: Sequence[np.ndarray],
  *,
  num_samples: int,
  copy_threshold: float,
  seed: int,
) -> dict[str, dict[str, np.ndarray]]:
  """Scores what needs no model; see `baselines`.

  Args:
    embed: see `make_embed`.
    windows: see `windows.prepare`.
    catalogue: every item's picture, uint8 [h, w, 3].
    num_samples: G, random items per user; the shape `embed` is compiled for.
    copy_threshold: see `scores.clip_scores`.
    seed: of the random items.

  Returns:
    {baseline: {metric: [U] float64}}.
  """
  found = {name: [] for name in baselines.NAMES}
  single = {"real_next_item": [], "copy_last": []}
  for index, window in enumerate(windows):
    rows = np.arange(len(window.batch.history_mask))
    last = baselines.last_index(window.targets.history_mask)
    known = window.targets.history_mask.any(-1)[: window.count]
    pictures = {
      "real_next_item": (
        window.targets.future[:, 0],
        baselines.real_next_item(window.batch),
      ),
      "copy_last": (
        window.targets.history[rows, last],
        baselines.copy_last(window.batch),
      ),
    }
    for name, (embeds, images) in pictures.items():
      result = score(window, embeds[:, None], images[:, None], copy_threshold)
      if name == "copy_last":  # nothing to copy where there is no history
        result = {k: np.where(known, v, np.nan) for k, v in result.items()}
      found[name].append(result)
      single[name].append(embeds[: window.count])
    images = baselines.random_items(
      catalogue, len(rows), num_samples, seed=seed + index
    )
    embeds = np.asarray(embed.images(images), np.float32)
    found["random_item"].append(score(window, embeds, images, copy_threshold))
  result = {name: _concatenate(parts) for name, parts in found.items()}
  for name, parts in single.items():
    result[name]["diversity"] = scores.spread(np.concatenate(parts))
  return result


def held_out(
  draw: Draw,
  embed: Embed,
  windows: Sequence[Window],
  key: jax.Array,
  *,
  copy_threshold: float,
  grid_users: int = 8,
) -> tuple[dict[str, float], np.ndarray]:
  """Evaluates a model in the middle of its training.

  Args:
    draw: (prompt, key) -> uint8 [P, G, h, w, 3]; few samples will do.
    embed: see `make_embed`.
    windows: of a subset of the held-out users.
    key: PRNG key; the same at every call makes the curve smoother.
    copy_threshold: see `scores.clip_scores`.
    grid_users: rows of the grid.

  Returns:
    {metric: mean over users}, and a picture uint8 [H, W, 3] of users as rows:
    history | samples | real next item.
  """
  done = evaluate_model(
    draw,
    embed,
    windows,
    key,
    copy_threshold=copy_threshold,
    keep=grid_users,
  )
  metrics = {
    name: float(np.nanmean(values))
    for name, values in done.scores.items()
    if not np.all(np.isnan(values))
  }
  return metrics, grid(windows, done.samples)


def finish(
  rows: Sequence[tuple[str, PyTree | Callable[[], PyTree]]],
  evaluator: Evaluator,
  workdir: str,
  *,
  shuffle: Sequence[str] = ("sft", "rl"),
  num_examples: int = 12,
) -> dict[str, Any]:
  """Compares models and baselines; writes and prints what a run leaves.

  Leaves summary.json and report.html in `workdir`, whose config.json and
  metrics.jsonl, where present, go into the page.

  Args:
    rows: (name, params) in the order of the table. A function of no arguments
      is called for its row's params, so that one model is in memory at a time.
    evaluator: see `build`.
    workdir: an existing folder.
    shuffle: names of the rows to show with shuffled histories as well.
    num_examples: users on the page.

  Returns:
    The summary; see `report`.
  """
  draw, embed, windows, catalogue, copy_threshold, seed = evaluator
  users = sum(window.count for window in windows)
  shuffled = shuffled_prompts(windows, seed) if users > 1 else None
  key = jax.random.key(seed)
  measure = functools.partial(
    evaluate_model,
    embed=embed,
    windows=windows,
    key=key,
    copy_threshold=copy_threshold,
  )
  interval = functools.partial(scores.bootstrap, seed=seed)
  models, strangers, samples = {}, {}, {}
  for name, params in rows:
    bound = functools.partial(draw, params() if callable(params) else params)
    done = measure(bound, keep=num_examples)
    models[name], samples[name] = interval(done.scores), done.samples
    if name in shuffle and shuffled:
      strangers[name] = interval(measure(bound, prompts=shuffled).scores)
  found = score_baselines(
    embed,
    windows,
    catalogue,
    num_samples=done.samples.shape[1],
    copy_threshold=copy_threshold,
    seed=seed,
  )
  models |= {name: interval(values) for name, values in found.items()}
  summary = {"users": users, "models": models, "shuffled": strangers}
  report.write_summary(workdir, summary)
  page.write(workdir, summary, users=examples(windows, samples))
  print(report.table(summary), flush=True)
  return summary


def _concatenate(
  parts: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
