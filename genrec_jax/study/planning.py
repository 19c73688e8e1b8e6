"""What `make` says of a study: its size, and the raters and votes it takes."""

import itertools
import math

from genrec_jax.study.folder import Study
from genrec_jax.study.power import votes_needed

RATERS_A_PAIR = 3  # at least; fewer say nothing of agreement
_LIKENESS = 0.1  # of two votes of one rater, until a pilot has told it
_RATES = (0.55, 0.6, 0.65)


def describe(study: Study) -> list[str]:
  """Returns lines for the terminal."""
  blocks = study.tasks["blocks"]
  rows, users = study.record["rows"], study.record["users"]
  pairs = list(itertools.combinations(rows, 2))
  real = sum(entry["kind"] == "pair" for entry in study.key.values())
  # Votes of a rater on two given rows, of those of the block.
  each = real / len(blocks) / len(pairs)
  # Half of the blocks are mirrors, which show the same pairs.
  least = RATERS_A_PAIR * len(blocks) // 2  # a block and its mirror
  lines = [
    f"{study.path}: {len(rows)} rows of {len(users)} users make"
    f" {len(users) * len(pairs)} pairs in {len(blocks) // 2} blocks of about"
    f" {len(blocks[0])} tasks, each also with the sides exchanged",
    f"{least} raters see each pair {RATERS_A_PAIR} times:"
    f" {least * each:.0f} votes on each two rows",
    "votes on two rows for 80 % power at .05, two-sided, and raters for them, a"
    f" block each of {each:.1f} such votes, {_LIKENESS} alike:",
  ]
  for rate in _RATES:
    alone = votes_needed(rate)
    # Fewer than one a rater are as good as independent.
    alike = votes_needed(rate, per_rater=max(each, 1), correlation=_LIKENESS)
    lines.append(
      f"  a win rate of {rate:.0%}: {alone} independent votes, {alike} of"
      f" {math.ceil(alike / each)} raters"
    )
  return [
    *lines,
    f"serve it:   python tools/study.py serve --study={study.path}",
    f"or copy {study.path}/site, and nothing else, to a static host",
  ]
