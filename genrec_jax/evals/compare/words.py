"""A comparison of runs in words, for the terminal."""

import textwrap

from genrec_jax.evals import page_differences
from genrec_jax.evals.compare.comparison import Comparison
from genrec_jax.evals.metrics import metric_of
from genrec_jax.evals.summary import headline

_WIDTH = 100  # characters of a line


def words(comparison: Comparison) -> str:
  """Returns groups by their headline, and their differences to the first."""
  groups = comparison["groups"]
  main = headline({"models": {g["name"]: g["metrics"] for g in groups}})
  about = f"{comparison['users']} {comparison['population']}"
  varied = ", ".join(comparison["varied"])
  lines = [f"{about}; varied: {varied}" if varied else about]
  width = max(len(group["name"]) for group in groups)
  for group in groups:
    line = (
      f"  {group['name']:<{width}}  seed {', '.join(map(str, group['seeds']))}"
    )
    if main in group["metrics"]:
      cell = group["metrics"][main]
      line += (
        f"  {metric_of(main).title} {cell['mean']:.3f}"
        f" ({cell['low']:.3f} to {cell['high']:.3f})"
      )
    lines.append(line)
  if comparison["differences"]:
    first = groups[0]["name"]
    lines.append(f"differences to {first}, user by user:")
    for name, cells in comparison["differences"].items():
      text = page_differences.sentence(cells, main)
      lines += _wrapped(f"{name.removesuffix(f' - {first}')}: {text}")
  if equal := equal_diversity(comparison):
    lines.append(f"at equal diversity, less {groups[0]['name']}:")
    lines += [line for text in equal for line in _wrapped(text)]
  lines += [f"note: {line}" for line in comparison["notes"]]
  lines += [
    f"failed: {run['name']}, seed {run['seed']}: {run['reason']}"
    for run in comparison["failed"]
  ]
  return "\n".join(lines)


def equal_diversity(comparison: Comparison) -> list[str]:
  """Returns what is said of groups at equal diversity, a line for each.

  'rloo: preference match +0.012 (+0.001 to +0.022), future mean by eye +0.003
  (-0.004 to +0.010), in the mean of diversities from 0.43 to 0.57'.
  """
  lines = []
  first = comparison["groups"][0]["name"]
  for name, cells in comparison["at_equal_diversity"].items():
    told = [
      f"{metric_of(metric).title} {cell['mean']:+.3f} ({cell['low']:+.3f} to"
      f" {cell['high']:+.3f})"
      for metric, cell in cells.items()
    ]
    reach = next(iter(cells.values()))  # the same of all: of diversity alone
    lines.append(
      f"{name.removesuffix(f' - {first}')}: {', '.join(told)}, in the mean of"
      f" diversities from {reach['least']:.2f} to {reach['most']:.2f}"
    )
  return lines


def _wrapped(text: str) -> list[str]:
  return textwrap.wrap(
    text, _WIDTH, initial_indent="  ", subsequent_indent="    "
  )
