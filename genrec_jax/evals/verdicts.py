"""Notes in words on where a table shows no result, a bad one, or favour."""

from genrec_jax.evals.metrics import judges, metric_of
from genrec_jax.evals.summary import (
  SHUFFLED,
  Summary,
  columns,
  difference,
  rows,
  sign,
)
from genrec_jax.rows import title

# Metrics of whether an image suits its user.
_FIT = (
  "preference_match",
  "future_clip_mean",
  "history_clip_mean",
  "text_clip",
)
# Of these, what can tell the real next item from a random one. The next item is
# itself part of 'future', and what it shows is not CLIP's to say.
_SEEN = ("history_clip_mean", "text_clip")


def verdicts(summary: Summary) -> list[str]:
  """Returns, in words, where paired intervals show no result or a bad one.

  And which encoder's columns flatter a row that has chosen by that encoder.
  """
  fit = [metric for metric in _FIT if metric in columns(summary)]

  def where(a, b, *signs, metrics=fit):
    """Returns the titles of the metrics where row a - row b has such a sign."""
    cells = {m: difference(summary, a, b, m) for m in metrics}
    return ", ".join(
      metric_of(m).title
      for m, cell in cells.items()
      if cell and sign(cell) in signs
    )

  lines = []
  real, random = title("real_next_item"), title("random_item")
  seen = [metric for metric in _SEEN if metric in fit]
  # First: without an encoder that can see, no other number means anything.
  if unsure := where("real_next_item", "random_item", -1, 0, metrics=seen):
    lines.append(
      f"the reward's CLIP cannot tell real from random: {real} is not above"
      f" {random} in {unsure}"
    )
  for group, name, _ in rows(summary):
    if group == "model":
      # Worse than chance is another finding than no better than chance.
      if below := where(name, "random_item", -1):
        lines.append(f"{name} is below {random} in {below}")
      if level := where(name, "random_item", 0):
        lines.append(f"{name} cannot be told from {random} in {level}")
    if group == "shuffled":
      if worse := where(name, name + SHUFFLED, -1):
        lines.append(
          f"{name} is worse with the user's own history than with another's in"
          f" {worse}"
        )
      if level := where(name, name + SHUFFLED, 0):
        lines.append(
          f"{name} is no better with the user's own history than with"
          f" another's in {level}"
        )
  if "content_knn" in summary["models"]:
    # As `item_rows.judge_or_clip` chooses.
    encoder = next(iter(judges(columns(summary))), "the reward's CLIP")
    lines.append(
      f"{title('content_knn')} shows what is most alike to {encoder}, whose own"
      " columns flatter it"
    )
  return lines
