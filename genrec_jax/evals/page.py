"""The report of a run, report.html: one file that a person reads anywhere.

Images are inline. The templates escape every value; see `html.render`.
"""

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import re
import shlex
import sys
import time
from typing import Any

import jax

from genrec_jax.core import files, tree
from genrec_jax.evals import curves as curves_lib
from genrec_jax.evals import (
  page_differences,
  page_frontier,
  page_rewards,
  page_table,
)
from genrec_jax.evals.curves import Curve
from genrec_jax.evals.examples import User
from genrec_jax.evals.metrics import metric_of
from genrec_jax.evals.summary import (
  Summary,
  headline,
  rows,
)
from genrec_jax.html import render
from genrec_jax.runtime import workdir as workdir_lib

_TEMPLATE = Path(__file__).with_name("report.html")
_SETTINGS = (  # (label, key in the config)
  ("task", "task"),
  ("answer", "model.answer"),
  ("checkpoint", "model.checkpoint"),
  ("CLIP, which rewards", "clip.checkpoint"),
  ("judges", "eval.judges"),
  ("data", "data.path"),
  ("history length", "data.history_length"),
  ("steps", "train.steps"),
  ("batch size", "data.batch_size"),
  ("learning rate", "optim.lr"),
  ("samples per prompt", "sample.num_samples"),
  ("guidance", "sample.guidance"),
  ("temperature", "sample.temperature"),
  ("advantage", "rl.advantage"),
  ("KL", "objective.kl"),
  ("KL weight", "objective.kl_weight"),
  ("seed", "seed"),
)
_TITLES = {
  "sft": "Supervised fine-tuning",
  "rl": "Reinforcement learning",
  "evaluate": "Evaluation",
}


def page(
  summary: Summary,
  *,
  title: str,
  stamp: str,
  command: str = "",
  config: Mapping[str, Any] | None = None,
  curves: Mapping[str, Curve] | None = None,
  users: Sequence[User] = (),
) -> str:
  """Returns the whole page.

  Args:
    summary: see `summary`.
    title: of the page.
    stamp: the line under the title: date, device, versions.
    command: what was typed, if known.
    config: the run's nested configuration, if known.
    curves: {metric: [(step, value), ...]} of the training, if there was any.
    users: examples to show.
  """
  result, ends = _headline(summary)
  charts, constant = curves_lib.charts(curves or {}, summary)
  return render.page(
    _TEMPLATE,
    title=title,
    stamp=stamp,
    command=command,
    settings=_settings(config or {}),
    config=json.dumps(config, indent=2, default=str) if config else "",
    headline=result,
    ends=ends,
    summary=summary,
    # A summary of older runs may lack these.
    population=summary.get("population", "users"),
    warnings=(*summary.get("alarms", ()), *summary.get("warnings", ())),
    verdicts=summary.get("verdicts", ()),
    tables=page_table.tables(summary),
    compared=page_differences.section(summary),
    equal_diversity=page_frontier.section(summary, page_table.colours(summary)),
    charts=charts,
    constant=constant,
    watched=page_rewards.section(curves or {}, summary),
    examples=users,
    colours=page_table.colours(summary),
  )


def write(workdir: str, summary: Summary, users: Sequence[User] = ()) -> str:
  """Writes report.html from a workdir's config.json and metrics.jsonl.

  Returns:
    The page's path.
  """
  path = os.path.join(workdir, "report.html")
  # Tests and other programs may write into a folder without a config.
  known = os.path.exists(os.path.join(workdir, workdir_lib.CONFIG))
  config = workdir_lib.read_config(workdir) if known else {}
  devices = jax.devices()
  program, *arguments = sys.orig_argv  # as typed, python included
  text = page(
    summary,
    title=_TITLES.get(config.get("task", ""), "Evaluation"),
    stamp=(
      f"{time.strftime('%Y-%m-%d %H:%M')} · {len(devices)} x "
      f"{devices[0].device_kind} · jax {jax.__version__}"
    ),
    # Without the interpreter's folder, which means nothing elsewhere.
    command=shlex.join([os.path.basename(program), *arguments]),
    config=config,
    curves=curves_lib.read(workdir),
    users=users,
  )
  files.write(path, text)
  return path


def _headline(summary: Summary) -> tuple[str, str]:
  """Returns the result in a sentence, and what chance and aim are; or ''."""
  models = summary["models"]
  metric = headline(summary)
  if not metric:
    return "", ""
  steps = " → ".join(
    f"{name} {values[metric]['mean']:.3f}"
    for group, name, values in rows(summary)
    if group == "model" and metric in values
  )
  ends = ", ".join(
    f"{label} {models[name][metric]['mean']:.3f}"
    for label, name in (
      ("a random item", "random_item"),
      ("the real next item", "real_next_item"),
    )
    if metric in models.get(name, {})
  )
  return f"{metric_of(metric).title.capitalize()}: {steps}", ends


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
  """Returns the few settings that a reader asks for first."""
  flat = tree.flatten(dict(config), sep=".")
  found = {
    label: _words(flat[key])
    for label, key in _SETTINGS
    if flat.get(key) not in (None, "", [], ())  # 0 is a setting, too
  }
  weights = [
    f"{match[1] or match[2]} {value:g}"
    for key, value in flat.items()
    # The second: of runs made before each reward had a section.
    if (match := re.fullmatch(r"rewards\.(\w+)\.weight|weights\.(\w+)", key))
    and value  # one of weight 0 is not computed
  ]
  return found | ({"reward weights": ", ".join(weights)} if weights else {})


def _words(value: Any) -> str:
  """Returns a setting as a reader writes it: of several, all names."""
  if isinstance(value, list | tuple):
    return ", ".join(map(str, value))
  return str(value)
