"""compare.html: what was varied, one table, curves and images side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from genrec_jax.core.errors import UserError
from genrec_jax.evals import kept_images, page_differences
from genrec_jax.evals.compare import overlay, words
from genrec_jax.evals.compare.comparison import Comparison
from genrec_jax.evals.compare.groups import FIRST, Group
from genrec_jax.evals.examples import ShownImage
from genrec_jax.evals.intervals import Interval
from genrec_jax.evals.metrics import in_order, metric_of
from genrec_jax.html import render
from genrec_jax.rows import title as row_title

# Next to the report's, whose style and parts it has.
_TEMPLATE = Path(__file__).parents[1] / "compare.html"
_USERS = 8  # whose images are shown


class Cell(NamedTuple):
  """A mean, and its difference to the first group's."""

  interval: Interval
  change: page_differences.Cell | None  # None: the first, or a reference


class Row(NamedTuple):
  """A group, or a row that all runs share."""

  name: str
  note: str
  colour: str  # CSS
  cells: list[Cell | None]


class Table(NamedTuple):
  """Means by one judge, metrics as columns."""

  judge: str  # '': the reward's CLIP, or the truth
  heads: list[str]
  rows: list[Row]
  references: list[Row]


class User(NamedTuple):
  """A user: what they liked, and an image of each group."""

  name: str
  history: list[ShownImage]
  real: ShownImage | None
  images: list[tuple[str, ShownImage]]  # (CSS colour, image)


def page(comparison: Comparison, groups: Sequence[Group], *, stamp: str) -> str:
  """Returns the whole page.

  Args:
    comparison: see `comparison.compare`.
    groups: that it is of, in its order.
    stamp: the line under the title.
  """
  colours = _colours(groups)
  return render.page(
    _TEMPLATE,
    title="Runs compared",
    stamp=stamp,
    comparison=comparison,
    groups=[(group, colours[group.name]) for group in groups],
    tables=tables(comparison, colours),
    metrics=[metric_of(name) for name in _metrics(comparison)],
    equal=words.equal_diversity(comparison),
    charts=overlay.overlays(groups, colours),
    examples=_users(groups, colours),
  )


def tables(comparison: Comparison, colours: Mapping[str, str]) -> list[Table]:
  """Returns the table of each judge."""
  metrics = _metrics(comparison)
  judges = dict.fromkeys(metric_of(name).judge for name in metrics)
  return [
    _table(
      comparison,
      colours,
      judge,
      [name for name in metrics if metric_of(name).judge == judge],
    )
    for judge in judges
  ]


def _table(
  comparison: Comparison,
  colours: Mapping[str, str],
  judge: str,
  metrics: Sequence[str],
) -> Table:
  groups = comparison["groups"]
  rows = []
  for group in groups:
    changes = comparison["differences"].get(
      f"{group['name']} - {groups[0]['name']}", {}
    )
    cells = [
      Cell(
        group["metrics"][m],
        page_differences.cell(changes[m], m) if m in changes else None,
      )
      if m in group["metrics"]
      else None
      for m in metrics
    ]
    seeds = ", ".join(map(str, group["seeds"]))
    note = f"seed{'s' if len(group['seeds']) > 1 else ''} {seeds}"
    # Others are named by what they change in it.
    if group["name"] == FIRST:
      values = [f"{key}={value}" for key, value in group["values"].items()]
      note = "; ".join([note, ", ".join(values)])
    rows.append(Row(group["name"], note, colours[group["name"]], cells))
  references = [
    Row(
      row_title(name),
      "",
      "var(--row-baseline)",
      [Cell(cells[m], None) if m in cells else None for m in metrics],
    )
    for name, cells in comparison["references"].items()
  ]
  heads = [metric_of(name).head for name in metrics]
  return Table(judge, heads, rows, references)


def _metrics(comparison: Comparison) -> list[str]:
  return in_order(m for group in comparison["groups"] for m in group["metrics"])


def _colours(groups: Sequence[Group]) -> dict[str, str]:
  """Returns a CSS colour per group: the first grey, the rest around a wheel."""
  others = len(groups) - 1
  return {
    group.name: f"hsl({215 + 360 * (i - 1) // others} 62% 50%)"
    if i
    else "var(--row-0)"
    for i, group in enumerate(groups)
  }


def _users(groups: Sequence[Group], colours: Mapping[str, str]) -> list[User]:
  """Returns the users that all groups kept images of, the first."""
  firsts = [group.runs[0] for group in groups]
  try:
    kept = [{u.name: u for u in kept_images.read(run.path)} for run in firsts]
  except UserError:  # a run that kept none: the page goes without
    return []
  users: list[User] = []
  for name, user in kept[0].items():
    if len(users) == _USERS or any(name not in found for found in kept):
      continue
    images = [
      (
        colours[group.name],
        ShownImage(found[name].images[run.row], title=group.name),
      )
      for group, run, found in zip(groups, firsts, kept, strict=True)
      if run.row in found[name].images
    ]
    real = user.images.get("real_next_item")
    history = [
      ShownImage(image, title=title)
      for image, title in zip(user.history, user.titles, strict=True)
    ]
    users.append(
      User(
        f"user {name}",
        history,
        None if real is None else ShownImage(real, title="the real next item"),
        images,
      )
    )
  return users
