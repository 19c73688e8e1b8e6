"""report.html: one file a person can read anywhere, pictures inline.

Values go through `html.escape` wherever they enter the page.
"""

from collections.abc import Mapping, Sequence
from html import escape
import json
import os
from pathlib import Path
import re
import shlex
from string import Template
import sys
import time
from typing import Any

import jax

from genrec_jax.core import files
from genrec_jax.evals import curves as curves_lib
from genrec_jax.evals.curves import Curve, curves_html
from genrec_jax.evals.examples import User, examples_html
from genrec_jax.evals.scores import METRICS
from genrec_jax.evals.summary import (
  Summary,
  best,
  columns,
  model_names,
  rows,
  short_name,
  shown_differences,
)
from genrec_jax.html import render
from genrec_jax.runtime import workdir as workdir_lib

_TEMPLATE = Path(__file__).with_name("report_template.html")
_HIGHLIGHTS = (  # (label, key in the config)
  ("task", "task"),
  ("checkpoint", "model.checkpoint"),
  ("CLIP, reward and judge", "clip.checkpoint"),
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
_NOTES = {
  "real_next_item": "what the user really chose",
  "vq_ceiling": "real next item, encoded and decoded",
  "random_item": "chance",
  "copy_last": "repeats the newest history image",
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
    summary: see `report`.
    title: of the page.
    stamp: the line under the title: date, device, versions.
    command: what was typed, if known.
    config: the run's nested configuration, if known.
    curves: {metric: [(step, value), ...]} of the training, if there was any.
    users: examples to show.
  """
  config = config or {}
  text = json.dumps(config, indent=2, default=str)
  return Template(_TEMPLATE.read_text()).substitute(
    style=render.read(),
    title=escape(title),
    stamp=escape(stamp),
    command=f'<pre class="command">{escape(command)}</pre>' if command else "",
    facts=_facts(config),
    config=(
      "<details><summary>The whole configuration</summary>"
      f"<pre>{escape(text)}</pre></details>"
      if config
      else ""
    ),
    lead=_lead(summary),
    notes=_notes(summary),
    table=_table(summary) + _differences(summary),
    meaning=_meaning(summary),
    curves=curves_html(curves or {}, summary),
    users=examples_html(users, _colours(summary)),
  )


def write(workdir: str, summary: Summary, users: Sequence[User] = ()) -> str:
  """Writes report.html from a workdir's config.json and metrics.jsonl.

  Returns:
    The page's path.
  """
  path = os.path.join(workdir, "report.html")
  known = os.path.exists(os.path.join(workdir, workdir_lib.CONFIG))
  config = workdir_lib.read_config(workdir) if known else {}
  devices = jax.devices()
  program, *arguments = sys.orig_argv
  text = page(
    summary,
    title=_TITLES.get(config.get("task"), "Evaluation"),
    stamp=(
      f"{time.strftime('%Y-%m-%d %H:%M')} · {len(devices)} x "
      f"{devices[0].device_kind} · jax {jax.__version__}"
    ),
    command=shlex.join([os.path.basename(program), *arguments]),
    config=config,
    curves=curves_lib.read(workdir),
    users=users,
  )
  files.write(path, text)
  return path


def _lead(summary: Summary) -> str:
  """Returns the result in a sentence, and how to read the table."""
  models, users = summary["models"], summary["users"]
  metric = next(
    (
      m
      for m in ("preference_match", "future_clip_mean")
      if m in columns(summary)
    ),
    None,
  )
  sentence = ""
  if metric:
    steps = " → ".join(
      f"{escape(name)} {values[metric]['mean']:.3f}"
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
    sentence = f"<b>{METRICS[metric].title.capitalize()}: {steps}</b>"
    sentence += f" ({ends}). " if ends else ". "
  return (
    f"{sentence}Means over {users} {summary.get('population', 'users')}, with"
    " 95 % bootstrap intervals over users beneath; bars share one scale within"
    " a column."
  )


def _notes(summary: Summary) -> str:
  """Returns what a reader has to know before the numbers, '' if nothing."""
  lines = [f"<b>Warning:</b> {escape(x)}" for x in summary.get("warnings", ())]
  lines += [escape(line) for line in summary.get("verdicts", ())]
  items = "".join(f"<li>{line}.</li>" for line in lines)
  return f'<ul class="notes">{items}</ul>' if lines else ""


def _differences(summary: Summary) -> str:
  """Returns the table of paired differences, '' if there are none."""
  metrics, names = columns(summary), shown_differences(summary)
  if not names:
    return ""
  heads = "".join(
    f'<th scope="col">{escape(METRICS[m].title)}</th>' for m in metrics
  )
  lines = []
  for name in names:
    cells = (summary["differences"][name].get(m) for m in metrics)
    lines.append(
      f'<tr><th scope="row">{escape(short_name(name))}</th>'
      + "".join(
        f"<td><b>{c['mean']:+.3f}</b>"
        f'<span class="span">{c["low"]:+.3f} &ndash; {c["high"]:+.3f}</span>'
        "</td>"
        if c
        else "<td>&ndash;</td>"
        for c in cells
      )
      + "</tr>"
    )
  return (
    '<div class="sheet"><table><thead><tr><th>differences</th>'
    f"{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    '<p class="key">Mean differences, user by user, with 95 % bootstrap'
    " intervals over users: one that leaves out 0 is a difference.</p>"
  )


def _facts(config: Mapping[str, Any]) -> str:
  """Returns the few settings a reader asks for first."""
  flat, found = _flat(config), []
  for label, key in _HIGHLIGHTS:
    if flat.get(key) not in (None, ""):
      found.append((label, flat[key]))
  weights = {
    match[1] or match[2]: value
    for key, value in flat.items()
    # The second: of runs made before each reward had a section.
    if (match := re.fullmatch(r"rewards\.(\w+)\.weight|weights\.(\w+)", key))
  }
  if weights:
    found.append(
      ("reward weights", ", ".join(f"{k} {v:g}" for k, v in weights.items()))
    )
  items = "".join(
    f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>"
    for k, v in found
  )
  return f'<dl class="facts">{items}</dl>' if items else ""


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def _colours(summary: Summary) -> dict[str, str]:
  """Returns a CSS colour per model, in the order of the table."""
  names = model_names(summary)
  return {n: f"var(--row-{min(i, 3)})" for i, n in enumerate(names)}


def _table(summary: Summary) -> str:
  metrics, winners = columns(summary), best(summary)
  arrows = {1: "↑", -1: "↓", 0: ""}
  heads = "".join(
    f'<th scope="col">{escape(METRICS[m].title)} {arrows[METRICS[m].better]}'
    "</th>"
    for m in metrics
  )
  scales = {m: _scale(summary, m) for m in metrics}
  colours = _colours(summary)
  bodies: dict[str, list[str]] = {}
  for group, name, values in rows(summary):
    colour = colours.get(name, "var(--row-baseline)")
    hollow = " hollow" if group == "shuffled" else ""
    note = _NOTES.get(name, "")
    if group == "shuffled":
      note = "with shuffled histories"
    small = f"<small>{note}</small>" if note else ""
    cells = "".join(
      _cell(
        values.get(m),
        scales[m],
        colour,
        best=group == "model" and winners.get(m) == name,
        hollow=group == "shuffled",
      )
      for m in metrics
    )
    bodies.setdefault(group, []).append(
      f'<tr><th scope="row"><span class="dot{hollow}" style="--c:{colour}">'
      f"</span>{escape(name.replace('_', ' '))}{small}</th>{cells}</tr>"
    )
  body = "".join(
    f'<tbody class="{group}">{"".join(lines)}</tbody>'
    for group, lines in bodies.items()
  )
  key = (
    "A model is marked that is better than every other, by the paired intervals"
    " of their differences. Shuffled: scored by the images that the model made"
    " from another user's history."
  )
  return (
    f'<div class="sheet"><table><thead><tr><th></th>{heads}</tr></thead>'
    f'{body}</table></div><p class="key">{key}</p>'
  )


def _scale(summary: Summary, metric: str) -> tuple[float, float]:
  """Returns the ends of a column's scale.

  copy_last is left out: it is 1 or so by construction and would squeeze the
  rest. It is drawn at the end it runs over.
  """
  cells = [
    values[metric]
    for _, name, values in rows(summary)
    if metric in values and name != "copy_last"
  ] or [summary["models"]["copy_last"][metric]]
  low, high = min(c["low"] for c in cells), max(c["high"] for c in cells)
  return low, high if high > low else low + 1


def _cell(value, scale, colour, *, best, hollow) -> str:
  if not value:
    return "<td>&ndash;</td>"
  low, high = scale
  at = {
    k: 4 + 76 * min(max((value[k] - low) / (high - low), 0), 1) for k in value
  }
  fill = "var(--card)" if hollow else colour
  mark = (
    f'<svg width="84" height="10" aria-hidden="true">'
    f'<line x1="0" x2="84" y1="5" y2="5" stroke="var(--line)"/>'
    f'<line x1="{at["low"]:.1f}" x2="{at["high"]:.1f}" y1="5" y2="5" '
    f'stroke="{colour}" stroke-width="4" stroke-linecap="round" opacity=".4"/>'
    f'<circle cx="{at["mean"]:.1f}" cy="5" r="3.2" fill="{fill}" '
    f'stroke="{colour}" stroke-width="1.6"/></svg>'
  )
  return (
    f"<td{' class=best' if best else ''}><b>{value['mean']:.3f}</b>"
    f'<span class="span">{value["low"]:.3f} &ndash; {value["high"]:.3f}</span>'
    f"{mark}</td>"
  )


def _meaning(summary: Summary) -> str:
  ends = {1: "higher is better", -1: "lower is better", 0: "neither end"}
  items = "".join(
    f"<dt>{escape(METRICS[m].title)}</dt><dd>{escape(METRICS[m].meaning)} "
    f"<i>({ends[METRICS[m].better]})</i></dd>"
    for m in columns(summary)
  )
  return f'<dl class="meaning">{items}</dl>'
