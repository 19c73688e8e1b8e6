"""Numbers of the import report other than drops: windows, times, crops."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from genrec_jax.core import duckdb_file
from genrec_jax.core.duckdb_file import Connection
from genrec_jax.data import histories

# Above this share of neighbouring events at equal times, order is mostly that
# of item ids. Ratings that people enter in one go have a quarter of such.
TIED = 0.5
# Times before or after are no times of events: days, years or dates as numbers.
_YEARS = ("1980", "2100")
_DAY = 24 * 3600 * 1000  # milliseconds
# Times between events of a user, each shorter than so many milliseconds.
GAPS = (
  ("tied", 1),
  ("a minute", 60_000),
  ("an hour", 3_600_000),
  ("a day", _DAY),
  ("a week", 7 * _DAY),
  ("30 days", 30 * _DAY),
  ("a year", 365 * _DAY),
)
# Shares of an image that the crop to its centre square takes, as `crop_losses`
# counts them.
_LOSSES = (0.1, 0.25, 0.5, 1.0)


def num_windows(
  lengths: Mapping[int, int], future_horizon: int
) -> dict[str, int]:
  """Returns the number of windows by split, short histories padded.

  Args:
    lengths: of histories: {length: users}.
    future_horizon: see `histories.split_points`.
  """
  users = np.asarray(list(lengths.values()), np.int64)  # [n]
  length = np.asarray(list(lengths), np.int64)  # [n]
  splits = histories.split_points(length, future_horizon)
  return {
    split: int(users @ histories.target_ranges(split, length, splits).size)
    for split in histories.SPLITS
  }


def times(db: Connection) -> dict[str, Any]:
  """Returns what the report says of the times between a user's events."""
  # A gap is counted under the first bound that it is below.
  bounds = [bound for _, bound in GAPS]
  cases = " ".join(
    f"WHEN gap < {bound} THEN {place}" for place, bound in enumerate(bounds)
  )
  # `ordered_events` is in order, so that no window has to sort.
  counts_by_place = dict(
    db.execute(f"""
      SELECT CASE {cases} ELSE {len(bounds)} END AS place, count(*) FROM (
        SELECT timestamp - lag(timestamp) OVER () AS gap,
          user_row = lag(user_row) OVER () AS same FROM ordered_events
      ) WHERE same GROUP BY place""").fetchall()
  )
  names = [*(name for name, _ in GAPS), "longer"]
  counts = {
    name: counts_by_place.get(place, 0) for place, name in enumerate(names)
  }
  one_day = f"""
    SELECT count(*) FROM (SELECT user_row FROM ordered_events GROUP BY user_row
      HAVING count(*) > 1 AND max(timestamp) - min(timestamp) < {_DAY})"""
  iso = "'%Y-%m-%dT%H:%M:%SZ'"
  span = db.execute(f"""
    SELECT strftime(make_timestamp(min(timestamp) * 1000), {iso}),
      strftime(make_timestamp(max(timestamp) * 1000), {iso})
    FROM ordered_events""").fetchall()[0]
  return {
    "gaps": counts,
    "tied_share": counts["tied"] / max(sum(counts.values()), 1),
    "users_of_one_day": duckdb_file.one(db, one_day),
    "times": dict(zip(("first", "last"), span, strict=True)),
  }


def time_warnings(times: Mapping[str, Any]) -> list[str]:
  """Returns warnings of order or times that mean little; see `times`."""
  warnings, (first, last) = [], times["times"].values()
  if times["tied_share"] > TIED:
    warnings.append(
      f"{times['tied_share']:.0%} of neighbouring events of a user have the "
      "same time: item ids order them, so that the next item is mostly "
      "arbitrary. Perhaps the times have lost their hours."
    )
  if first < _YEARS[0] or last >= _YEARS[1]:
    warnings.append(
      f"events are from {first} to {last}: perhaps the raw times are days, "
      "years or dates such as 20200102, which are read as seconds since 1970."
    )
  return warnings


def crop_losses(
  sizes: Iterable[tuple[int, int]],
) -> dict[str, int | float | dict[str, int]]:
  """Counts what images of some widths and heights lose to their centre square.

  Returns:
    'images' and 'cropped', their numbers; 'mean_share', of all images, the mean
    share of pixels that are lost; 'shares', of those that are cropped, how many
    lose up to a tenth, a quarter, half and more.
  """
  lost = np.asarray(  # [images]
    [1 - min(size) / max(size) for size in sizes], np.float64
  )
  places = np.digitize(lost[lost > 0], _LOSSES[:-1], right=True)  # [cropped]
  counts = np.bincount(places, minlength=len(_LOSSES)).tolist()
  return {
    "images": len(lost),
    "cropped": int((lost > 0).sum()),
    "mean_share": float(lost.mean()) if len(lost) else 0.0,
    "shares": {
      f"up to {share:.0%}": number
      for share, number in zip(_LOSSES, counts, strict=True)
    },
  }
