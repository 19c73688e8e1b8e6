"""The k-core: users and items that have at least k events with each other."""

from collections.abc import Mapping

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection
from genrec_jax.ingest import drops


def shrink(db: Connection, k: int) -> list[str]:
  """Drops from `core` users and items of fewer than `k` events until none is.

  Returns:
    The first events that were dropped, in words.
  """
  first: list[str] = []
  # Items lose events with a user, and users with an item: until all have k.
  while True:
    for column in ("u", "i"):
      db.execute(f"""
        CREATE OR REPLACE TEMP TABLE few_{column} AS
        SELECT {column} FROM core GROUP BY {column} HAVING count(*) < {k}""")
    few = "u IN (FROM few_u) OR i IN (FROM few_i)"
    if not duckdb_file.one(
      db, "SELECT (SELECT count(*) FROM few_u) + (SELECT count(*) FROM few_i)"
    ):
      return first
    if not first:  # later rounds follow from this one
      first = drops.in_words(db, f"SELECT u, i FROM core WHERE {few}")
    # A new table rather than a deletion: the old one's space is used again.
    db.execute(f"""
      CREATE TABLE smaller AS
      SELECT * FROM core WHERE NOT ({few})""")
    db.execute("DROP TABLE core")
    db.execute("ALTER TABLE smaller RENAME TO core")


def images(db: Connection) -> list[tuple[str, str]]:
  """Returns (id, image path) of the items that are in `core`, by id."""
  # In the order that the store of images keeps them in.
  rows = db.execute("""
    SELECT id, path FROM items SEMI JOIN core USING (i) ORDER BY i""")
  return rows.fetchall()


def drop_images(
  db: Connection, unusable: Mapping[str, tuple[str, str]]
) -> None:
  """Drops from `core` the items whose image cannot be used.

  Args:
    db: the database.
    unusable: by item id, reason and details.
  """
  columns = {
    "id": list(unusable),
    "why": [reason for reason, _ in unusable.values()],
    "details": [details for _, details in unusable.values()],
  }
  # The casts are for no rows at all, of which DuckDB cannot see a type.
  with duckdb_file.registered(db, columns):
    db.execute("""
      CREATE OR REPLACE TABLE bad_images AS
      SELECT CAST(id AS VARCHAR) AS id, CAST(why AS VARCHAR) AS why,
        CAST(details AS VARCHAR) AS details FROM given""")
  db.execute("""
    UPDATE items SET reason = 'bad_image'
    WHERE id IN (SELECT id FROM bad_images)""")
  if unusable:
    db.execute("""
      CREATE OR REPLACE TABLE core AS SELECT * FROM core SEMI JOIN
        (SELECT i FROM items WHERE reason IS NULL) USING (i)""")
