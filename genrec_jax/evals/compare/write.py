"""The whole of a comparison: opened, written, and said."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import time
from typing import Any

from genrec_jax.core import files
from genrec_jax.evals.compare import comparison as comparison_lib
from genrec_jax.evals.compare import groups as groups_lib
from genrec_jax.evals.compare import page, runs, words
from genrec_jax.evals.compare.comparison import Comparison


def compare(
  paths: Sequence[str],
  out: str | None,
  *,
  rows: Sequence[str] = (),
  failed: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
  """Compares runs, prints the result, and writes compare.json and compare.html.

  Args:
    paths: workdirs of finished runs or evaluations, one or more.
    out: a folder, made if absent; None: nothing is written.
    rows: see `runs.open_runs`.
    failed: runs without a result; see `comparison`.

  Raises:
    UserError: see `runs.open_runs`.
  """
  groups = groups_lib.group(runs.open_runs(paths, rows))
  found = comparison_lib.compare(groups, failed=failed)
  if out:
    Path(out).mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, allow_nan=False)
    files.write(str(Path(out, "compare.json")), text + "\n")
    stamp = f"{time.strftime('%Y-%m-%d %H:%M')} · {len(paths)} runs"
    html = page.page(found, groups, stamp=stamp)
    files.write(str(Path(out, "compare.html")), html)
  # Last: what is seen in the terminal is on disk by then.
  print(words.words(found), flush=True)
  return found
