"""Evaluation: of any checkpoint as a task, during training, and at its end."""

from collections.abc import Callable, Sequence
import functools
import os
from typing import Any

import jax
from jax.sharding import NamedSharding
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.data import synthetic
from genrec_jax.data.windows import WindowSpec
from genrec_jax.evals import (
  baselines,
  calibration,
  lineage,
  page,
  per_user,
  table,
  verdicts,
)
from genrec_jax.evals import held_out as held_out_lib
from genrec_jax.evals.evaluator import (
  Draw,
  Embed,
  Evaluator,
  build,
  evaluate_model,
  noise,
)
from genrec_jax.evals.examples import examples
from genrec_jax.evals.held_out import HeldOutBatch, grid
from genrec_jax.hf import load
from genrec_jax.runtime import distributed, metrics
from genrec_jax.runtime import workdir as workdir_lib
from genrec_jax.sampling import Sampling


def held_out(
  draw: Draw,
  embed: Embed,
  windows: Sequence[HeldOutBatch],
  key: jax.Array,
  *,
  copy_threshold: float,
  grid_users: int = 8,
  population: str = "held-out users",
) -> tuple[dict[str, float], np.ndarray]:
  """Evaluates a model in the middle of its training.

  Args:
    draw: (prompt, key) -> uint8 [P, G, h, w, 3]; few samples will do.
    embed: see `make_embed`.
    windows: of a subset of the held-out users.
    key: PRNG key; the same at every call makes the curve smoother.
    copy_threshold: see `scores.clip_scores`.
    grid_users: rows of the grid.
    population: whom the windows are of, for the progress line.

  Returns:
    {metric: mean over users}, and a picture uint8 [H, W, 3] of users as rows:
    history | samples | real next item.
  """
  tally = metrics.Tally(sum(one.count for one in windows), population)
  done = evaluate_model(
    draw,
    embed,
    windows,
    key,
    copy_threshold=copy_threshold,
    keep=grid_users,
    done=functools.partial(tally.add, "evaluating"),
  )
  tally.clear()
  means = {
    name: float(np.nanmean(values))
    for name, values in done.scores.items()
    if not np.all(np.isnan(values))
  }
  return means, grid(windows, done.samples)


def finish(
  rows: Sequence[tuple[str, PyTree | Callable[[], PyTree]]],
  evaluator: Evaluator,
  workdir: str,
  *,
  num_examples: int = 12,
) -> dict[str, Any]:
  """Compares models and baselines; writes and prints what a run leaves.

  All processes of a run enter it, and the first writes and prints. Leaves
  summary.json, scores.parquet and report.html in `workdir`, whose config.json
  and metrics.jsonl, where present, go into the page. Every row but 'base',
  which never learned from a history, is scored with shuffled histories as well:
  every user by the images generated for another.

  Args:
    rows: (name, params) in the order of the table. A function of no arguments
      is called for its row's params, so that one model is in memory at a time.
    evaluator: see `build`.
    workdir: an existing folder.
    num_examples: users on the page.

  Returns:
    The summary; see `report`.
  """
  windows, seed = evaluator.windows, evaluator.seed
  users = sum(window.count for window in windows)
  source = held_out_lib.derangement(users, seed) if users > 1 else None
  tally = metrics.Tally(len(rows) * users, evaluator.population)
  scores: dict[str, dict[str, np.ndarray]] = {}
  shuffled, samples = {}, {}
  for name, params in rows:
    held = None  # makes room for this row's parameters
    held = params() if callable(params) else params
    done = evaluate_model(
      functools.partial(evaluator.draw, held),
      evaluator.embed,
      windows,
      noise(seed),
      copy_threshold=evaluator.copy_threshold,
      keep=num_examples,
      done=functools.partial(tally.add, f"evaluating {name}"),
    )
    scores[name], samples[name] = done.scores, done.samples
    if name != "base" and source is not None:
      shuffled[name + table.SHUFFLED] = held_out_lib.score_others(
        windows, done.embeds, done.shown, source, evaluator.copy_threshold
      )
  tally.clear()
  tally = metrics.Tally(users, evaluator.population)
  scores |= shuffled | baselines.score_all(
    evaluator.embed.images,
    windows,
    evaluator.catalogue,
    num_samples=done.samples.shape[1],
    copy_threshold=evaluator.copy_threshold,
    seed=seed,
    reconstruct=evaluator.reconstruct
    and functools.partial(evaluator.reconstruct, held),
    done=functools.partial(tally.add, "evaluating baselines"),
  )
  tally.clear()
  summary = table.summarise(
    scores,
    seed=seed,
    population=evaluator.population,
    warnings=evaluator.warnings,
  )
  summary["verdicts"] = verdicts.verdicts(summary)
  if distributed.is_first():
    table.write_summary(workdir, summary)
    names = [name for one in windows for name in one.names[: one.count]]
    per_user.write(workdir, names, scores)
    page.write(workdir, summary, users=examples(windows, samples))
    print(table.table(summary), flush=True)
  return summary


def run(config: Any, workdir: str) -> None:
  """Evaluates `config.model.checkpoint`; see configs/evaluate.py.

  The table has a row for each model that the checkpoint, if it is a workdir,
  was trained from; see `lineage`.

  Raises:
    UserError: a checkpoint, data set, mesh or workdir that does not fit.
  """
  mesh = sharding.make_mesh(**config.mesh)
  sharding.check_batch(mesh, **{"eval.batch_size": config.eval.batch_size})
  _check_data(config)
  # First, as it takes least to open and is most often mistyped.
  dataset = synthetic.open_or_build(
    config.data.path,
    **{name: config.data[name] for name in workdir_lib.WORLD_KEYS},
  )
  distributed.say(f"evaluating on {dataset.path}")
  known = lineage.warnings(
    config.model.checkpoint, config.clip.checkpoint, dataset
  )
  for line in known:
    distributed.say(f"warning: {line}")
  compute = {"dtype": config.model.dtype}
  opened = load.open_generator(config.model.checkpoint, **compute)
  specs = sharding.specs(opened.rules, opened.shapes)
  # Nothing here is trained: no need to shard over the data axis.
  layout = sharding.checked_shardings(
    mesh, sharding.drop_axis("data", specs), opened.shapes
  )
  rows = lineage.open_models(
    lineage.existing(lineage.lineage(config.model.checkpoint)),
    opened,
    layout,
    **compute,
  )
  clip, clip_params, clip_tokenizer = load.load_clip(
    config.clip.checkpoint,
    dtype=config.clip.dtype,
    place=NamedSharding(mesh, sharding.REPLICATED),
  )
  evaluator = build(
    opened.model,
    opened.processor,
    clip,
    clip_params,
    clip_tokenizer,
    dataset,
    WindowSpec.from_options(config.data),
    users=config.eval.users,
    batch_size=config.eval.batch_size,
    sample=Sampling(**config.sample),
    copy_threshold=config.eval.copy_threshold,
    seed=config.seed,
    mesh=mesh,
    warnings=known,
  )
  workdir_lib.claim(workdir, config.to_json())

  def calibrated(read):
    params = read()
    calibration.report(
      evaluator,
      params,
      batch_size=config.eval.batch_size,
      num_samples=config.sample.num_samples,
    )
    return params

  # Where the first weights are read anyway.
  rows[0] = (rows[0][0], functools.partial(calibrated, rows[0][1]))
  finish(rows, evaluator, workdir)


def _check_data(config: Any) -> None:
  """Refuses to show a model other prompts, or users it was trained on.

  Another data set, in `data.path`, is the reader's choice.
  """
  path = config.model.checkpoint
  if not os.path.exists(os.path.join(path, workdir_lib.CONFIG)):
    return
  theirs = workdir_lib.read_config(path).get("data", {})
  keys = list(workdir_lib.PROMPT_KEYS)
  if theirs.get("path") == config.data.path:
    keys += workdir_lib.WORLD_KEYS
  problems = [
    f"data.{key}: {theirs[key]!r} there, {config.data[key]!r} now"
    for key in keys
    if key in theirs and theirs[key] != config.data[key]
  ]
  if problems:
    raise UserError(
      listed(
        f"{path} was trained with other data settings, which would change what"
        " its prompts look like or who is held out; give its own with"
        " --config.data.KEY=VALUE:",
        problems,
      )
    )
