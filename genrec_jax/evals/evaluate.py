"""Evaluation: of any checkpoint as a task, during training, and at its end."""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from typing import Any

import jax
from jax.sharding import NamedSharding
import numpy as np

from genrec_jax.core import distributed, sharding
from genrec_jax.core import workdir as workdir_lib
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.data import builders
from genrec_jax.evals import baselines, page, report, scores
from genrec_jax.evals.evaluator import (
  Draw,
  Embed,
  Evaluator,
  build,
  evaluate_model,
  noise,
)
from genrec_jax.evals.examples import examples
from genrec_jax.evals.windows import Window, grid, shuffled_prompts
from genrec_jax.hf import load


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
  num_examples: int = 12,
) -> dict[str, Any]:
  """Compares models and baselines; writes and prints what a run leaves.

  All processes of a run enter it, and the first writes and prints. Leaves
  summary.json and report.html in `workdir`, whose config.json and
  metrics.jsonl, where present, go into the page. Every row but 'base', which
  never learned from a history, is shown with shuffled histories as well.

  Args:
    rows: (name, params) in the order of the table. A function of no arguments
      is called for its row's params, so that one model is in memory at a time.
    evaluator: see `build`.
    workdir: an existing folder.
    num_examples: users on the page.

  Returns:
    The summary; see `report`.
  """
  draw, embed, windows, catalogue, copy_threshold, seed, _ = evaluator
  users = sum(window.count for window in windows)
  shuffled = shuffled_prompts(windows, seed) if users > 1 else None
  key = noise(seed)
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
    if name != "base" and shuffled:
      strangers[name] = interval(measure(bound, prompts=shuffled).scores)
    del bound  # makes room for the next row's parameters
  found = baselines.score_all(
    embed.images,
    windows,
    catalogue,
    num_samples=done.samples.shape[1],
    copy_threshold=copy_threshold,
    seed=seed,
  )
  models |= {name: interval(values) for name, values in found.items()}
  summary = {"users": users, "models": models, "shuffled": strangers}
  if distributed.is_first():
    report.write_summary(workdir, summary)
    page.write(workdir, summary, users=examples(windows, samples))
    print(report.table(summary), flush=True)
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
  dataset = builders.open_or_build(
    config.data.path,
    **{name: config.data[name] for name in workdir_lib.WORLD_KEYS},
  )
  distributed.say(f"evaluating on {dataset.path}")
  compute = {"dtype": config.model.dtype}
  opened = load.open_generator(config.model.checkpoint, **compute)
  specs = sharding.specs(opened.rules, opened.shapes)
  # Nothing here is trained: no need to shard over the data axis.
  layout = sharding.layout(mesh, sharding.without("data", specs), opened.shapes)
  rows = open_rows(
    present(lineage(config.model.checkpoint)), opened, layout, **compute
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
    history_length=config.data.history_length,
    future_horizon=config.data.future_horizon,
    instruction=config.data.instruction,
    short_histories=config.data.short_histories,
    users=config.eval.users,
    batch_size=config.eval.batch_size,
    sample=dict(config.sample),
    copy_threshold=config.eval.copy_threshold,
    seed=config.seed,
    mesh=mesh,
  )
  workdir_lib.claim(workdir, config.to_json())
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


def open_rows(
  rows: Sequence[tuple[str, str]],
  like: load.Opened,
  layout: PyTree,
  **compute: str,
) -> list[tuple[str, Callable[[], PyTree]]]:
  """Opens the models of a table; their weights are read when called for.

  Args:
    rows: (name, checkpoint).
    like: the model whose compiled functions and prompts serve all rows.
    layout: shardings of the parameters.
    **compute: options of `load.open_generator`, as `like` was opened with.

  Raises:
    UserError: lists the rows of another architecture or vocabulary.
  """
  opened, problems = [], []
  for name, path in rows:
    other = load.open_generator(path, **compute)
    if other.model != like.model:
      problems.append(f"{name}, {path}: {other.model}")
    elif _words(other) != _words(like):
      problems.append(f"{name}, {path}: another vocabulary")
    opened.append((name, functools.partial(other.read, layout)))
  if problems:
    raise UserError(
      listed(
        f"these cannot be rows beside {like.source}: expected its vocabulary"
        f" and its architecture, {like.model}; found:",
        problems,
      )
    )
  return opened


def _words(opened: load.Opened) -> dict[str, int]:
  return opened.processor.tokenizer.get_vocab()


def lineage(checkpoint: str) -> list[tuple[str, str]]:
  """Names a checkpoint and what it was trained from: [(row, path), ...].

  A workdir says so in its config: an RL run after SFT has rows base, sft and
  rl, an SFT run base and sft. Bundled checkpoints carry their name; of any
  other folder nothing is known: 'model'. They need not be there any more.
  """
  config = {}
  if os.path.exists(os.path.join(checkpoint, workdir_lib.CONFIG)):
    config = workdir_lib.read_config(checkpoint)
  if "task" in config:  # the config of an HF folder has none
    return [*ancestors(config), (config["task"], checkpoint)]
  bundled = {"tiny_base": "base", "tiny_sft": "sft"}
  return [(bundled.get(checkpoint, "model"), checkpoint)]


def ancestors(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Names the models that the run of a config came from, as `lineage` does.

  What SFT starts from is 'base' unless it is known to be something else; a
  start named as the run itself, SFT after SFT, is 'start'. `eval.base` is the
  base of a checkpoint that does not know its own.
  """
  rows = dict(lineage(config["model"]["checkpoint"]))
  if config["task"] == "sft" and "model" in rows:
    rows = {"base": rows["model"]}
  base = config.get("eval", {}).get("base")
  if base and "base" not in rows:
    rows = {"base": base, **rows}
  return list(
    {
      "start" if name == config["task"] else name: path
      for name, path in rows.items()
    }.items()
  )


def present(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """Leaves out, and says so, the rows whose folders are not there any more."""
  found = []
  for name, path in rows:
    try:
      load.resolve(path)
      found.append((name, path))
    except UserError as error:
      distributed.say(f"no row {name!r} in the table: {error}")
  return found
