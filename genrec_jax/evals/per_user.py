"""scores.parquet: every user's scores, and runs compared by them.

Distances of sets are among them, as each user's part; see `set_distances`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from genrec_jax.core import duckdb_file, files
from genrec_jax.core.errors import UserError
from genrec_jax.evals import differences
from genrec_jax.evals.differences import Difference
from genrec_jax.evals.metrics import in_order

FILE = "scores.parquet"


def write(
  workdir: str,
  users: Sequence[str],
  per_user: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
  """Writes scores.parquet: a line for each user and row of the table.

  Its columns are user, model (as in `summarise`) and the metrics, null where a
  user has none.
  """
  names = in_order(m for row in per_user.values() for m in row)
  # [rows U] each: row by row of the table, users in one order.
  missing = np.full(len(users), np.nan)  # [U], of rows without a metric
  columns = {
    "user": np.tile(np.asarray(users, object), len(per_user)),
    "model": np.repeat(np.asarray(list(per_user), object), len(users)),
  } | {
    m: np.concatenate([row.get(m, missing) for row in per_user.values()])
    for m in names
  }
  # Null, which means leave out; a NaN would make every mean NaN.
  floats = "".join(f", nullif({m}, 'nan'::double) {m}" for m in names)
  with (
    files.replacing(Path(workdir, FILE)) as partial,
    duckdb.connect() as db,
    duckdb_file.registered(db, columns, dtype=None),
  ):
    duckdb_file.copy(db, f"SELECT user, model{floats} FROM given", partial)


def read(workdir: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
  """Returns users, and {row: {metric: [U] float64}} as `write` had them.

  Raises:
    UserError: the workdir has none.
  """
  path = Path(workdir, FILE)
  if not path.is_file():
    raise UserError(
      f"{workdir} has no {FILE}: expected the workdir of a finished run or"
      " evaluation; evaluate it anew with configs/evaluate.py"
    )
  with duckdb.connect() as db:
    query = f"SELECT * FROM {duckdb_file.parquet(path)}"
    columns = db.execute(query).fetchnumpy()
  users, models = columns.pop("user"), columns.pop("model")
  found = {}
  for name in dict.fromkeys(models):  # once each, in the order written
    rows = models == name  # [rows U] bool
    found[name] = {
      metric: np.ma.filled(values[rows], np.nan).astype(np.float64)
      for metric, values in columns.items()
    }
  return list(users[models == models[0]]), found


def paired(
  workdir_a: str, workdir_b: str, row_a: str, row_b: str, *, seed: int = 0
) -> dict[str, Difference]:
  """Returns mean differences of two runs' rows, a - b, user by user.

  Args:
    workdir_a: of a finished run or evaluation.
    workdir_b: of another that was evaluated on the same users.
    row_a: a row of the table of `workdir_a`, such as 'rl' or 'rl shuffled'.
    row_b: a row of the table of `workdir_b`.
    seed: of the bootstrap.

  Returns:
    {metric: difference}, see `differences.paired`.

  Raises:
    UserError: no scores, no such row, or other users.
  """
  (users_a, found_a), (users_b, found_b) = read(workdir_a), read(workdir_b)
  for folder, row, found in (
    (workdir_a, row_a, found_a),
    (workdir_b, row_b, found_b),
  ):
    if row not in found:
      raise UserError(
        f"no row {row!r} in {folder}: expected one of {', '.join(found)}"
      )
  if sorted(users_a) != sorted(users_b):
    only = len(set(users_a) ^ set(users_b))
    raise UserError(
      f"{workdir_a} and {workdir_b} were evaluated on different users, {only}"
      f" of {len(users_a)} and {len(users_b)} are in one only: expected the"
      " same; evaluate both with the same data and eval.users"
    )
  # Users may come in another order, as with another batch size.
  order = {user: i for i, user in enumerate(users_b)}
  index = np.asarray([order[user] for user in users_a])  # [U]
  others = {name: values[index] for name, values in found_b[row_b].items()}
  rows = {"a": found_a[row_a], "b": others}
  return differences.paired(rows, [("a", "b")], seed=seed)["a - b"]
