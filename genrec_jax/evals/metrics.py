"""What the metrics of a table mean, by their names.

A name says which encoder looked and how it was pooled:
`future_dinov2_base_mean` is by the judge dinov2_base. What names no judge is by
the reward's CLIP or, where it is known, by the truth.
"""

from collections.abc import Iterable, Sequence
import functools
import re
from typing import NamedTuple


class Metric(NamedTuple):
  """A column of the table: its title, direction and meaning."""

  title: str
  better: int  # 1: higher is better, -1: lower is, 0: neither end is
  meaning: str
  judge: str = ""  # who looked; '': the reward's CLIP, or the truth
  column: str = ""  # the title in a table of this judge; '': as everywhere

  @property
  def head(self) -> str:
    """The title in a table of its own judge."""
    return self.column or self.title


METRICS: dict[str, Metric] = {
  # In the order of the columns.
  "history_clip_mean": Metric(
    "history mean",
    1,
    "CLIP similarity of a sample to the user's history images, averaged over "
    "them: does it fit the user's taste as a whole?",
  ),
  "history_clip_max": Metric(
    "history max",
    1,
    "CLIP similarity to the nearest history image. Copying wins this one, so "
    "read it next to the copy rate.",
  ),
  "future_clip_mean": Metric(
    "future mean",
    1,
    "CLIP similarity to the items the user really went on to: does it point "
    "where the user goes next?",
  ),
  "text_clip": Metric(
    "text",
    1,
    "CLIP similarity to the title of the real next item, which the model never "
    "sees.",
  ),
  "preference_match": Metric(
    "preference match",
    1,
    "Share of what the user wants now (shape, colour, texture) that the "
    "image shows, by the exact attribute reader. Known only in the synthetic "
    "world; the random item is at chance.",
  ),
  "future_match": Metric(
    "future match",
    1,
    "Share of the five attributes of the items the user really went on to that "
    "the image shows, by the exact attribute reader. Known only in the "
    "synthetic world.",
  ),
  "copy_rate": Metric(
    "copy rate",
    -1,
    "Share of samples that repeat a history item: all attributes equal where "
    "the truth is known, else CLIP similarity above the copy threshold.",
  ),
  "diversity": Metric(
    "diversity",
    0,
    "Mean of 1 - cosine between a user's own samples. For rows of one image "
    "a user, such as the real next item, between users instead. Near 0 the "
    "samples are all alike; as high as the random item, they ignore the user.",
  ),
  "future_clip_next": Metric(
    "future next",
    1,
    "CLIP similarity to the very next item alone.",
  ),
  "catalogue_copy_clip": Metric(
    "catalogue copies",
    0,
    "Share of samples that repeat any item of the training data, by CLIP "
    "similarity above the copy threshold. In a world of few items good samples "
    "are such items; of photos it should stay near 0.",
  ),
}
# Of answers that have a title, and where models are asked for captions.
WRITTEN: dict[str, Metric] = {
  "title_match": Metric(
    "title match",
    1,
    "Share of what the user wants now that the written title names. Known only "
    "in the synthetic world.",
  ),
  "title_agreement": Metric(
    "title agreement",
    1,
    "Share of the five attributes for which the written title names what the "
    "exact reader sees in its image. Known only in the synthetic world.",
  ),
  "title_text_clip": Metric(
    "title",
    1,
    "CLIP similarity of the written title to that of the real next item.",
  ),
  "title_image_clip": Metric(
    "title to image",
    1,
    "CLIP similarity of the written title to the image generated after it.",
  ),
  "title_cut": Metric(
    "titles cut",
    -1,
    "Share of written titles that had not ended at model.title_tokens. Their "
    "images are whole.",
  ),
  "caption_accuracy": Metric(
    "captions",
    1,
    "Share of the real next item's title, token by token, that the model reads "
    "off the item's image: does training cost it what it understands?",
  ),
}

# By a checkpoint of PickScore's format, whose name stands for {}.
_QUALITY = "quality_{}"
_BY_RATER = Metric(
  "quality",
  1,
  "PickScore of a sample for the title of the real next item: how well people"
  " would like it. One more is odds of 2.7 to 1; compare with that of the real"
  " next item.",
)

# The same for every judge, whose name stands for {}: what images look like, and
# what they find and how they differ from real ones.
_LIKENESS: dict[str, Metric] = {
  "history_{}_mean": Metric(
    "history mean",
    1,
    "Similarity of a sample to the user's history images, averaged over them.",
  ),
  "history_{}_max": Metric(
    "history max",
    1,
    "Similarity to the nearest history image, which copying wins.",
  ),
  "future_{}_mean": Metric(
    "future mean",
    1,
    "Similarity to the items that the user really went on to, averaged.",
  ),
  "future_{}_next": Metric(
    "future next", 1, "Similarity to the very next item alone."
  ),
  "text_{}": Metric(
    "text", 1, "Similarity to the title of the real next item."
  ),
  "copy_rate_{}": Metric(
    "copy rate",
    -1,
    "Share of samples as near to a history image as only copies are.",
  ),
  "catalogue_copy_{}": Metric(
    "catalogue copies",
    0,
    "Share of samples as near to any item of the training data.",
  ),
  "diversity_{}": Metric(
    "diversity", 0, "Mean of 1 - cosine between a user's own samples."
  ),
  "spread_{}": Metric(
    "spread",
    0,
    "Mean of 1 - cosine between samples of different users; the real next"
    " item's is what to compare with.",
  ),
}
_RANKING: dict[str, Metric] = {
  "hit_rate_{}": Metric(
    "HR@10",
    1,
    "Share of users whose real next item is among the ten unseen items that are"
    " nearest to any of their samples; a recommender's by its own ranking.",
  ),
  "ndcg_{}": Metric(
    "NDCG@10",
    1,
    "The same, 1 / log2(1 + rank) instead of 1: the first ranks count more.",
  ),
  "mrr_{}": Metric("MRR", 1, "Mean of 1 / rank of the real next item."),
  "lift_{}": Metric(
    "lift",
    1,
    "HR@10 over that of an item chosen at random, which has 1.",
  ),
  "discrimination_{}": Metric(
    "user AUC",
    1,
    "Share of 99 other users to whose future a sample is less near than to its"
    " own user's; .5 is chance. Who ignores the history cannot beat it.",
  ),
  "kid_{}": Metric(
    "KID",
    -1,
    "Distance of the set of samples from the set of real next items: kernel"
    " (1 + cosine)^3; 0 is none.",
  ),
  "cmmd_{}": Metric(
    "CMMD",
    -1,
    "The same with a Gaussian kernel of width 10, in thousandths.",
  ),
  "frechet_{}": Metric(
    "Frechet",
    -1,
    "Distance of two normal distributions; higher the fewer the images.",
  ),
}
_BY_JUDGE = _LIKENESS | _RANKING

# What is another metric but for a factor: its test is the other's.
_REPEATS = {"lift_{}": "hit_rate_{}"}

# Left out of the terminal, which is narrow.
_DETAILS = (
  "future_clip_next",
  "future_match",
  "catalogue_copy_clip",
  "history_{}_max",
  "future_{}_next",
  "text_{}",
  "catalogue_copy_{}",
  "spread_{}",
  "mrr_{}",
  "lift_{}",
  "cmmd_{}",
  "frechet_{}",
)


class Table(NamedTuple):
  """Metrics that stand side by side."""

  title: str  # '': of the reward's CLIP's metrics and the truth's
  names: list[str]
  judged: bool = False  # the title names a judge


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
  return re.compile(template.replace("{}", "([0-9A-Za-z_]+)"))


def describe(name: str) -> Metric | None:
  """Returns what a metric of this name means; None: nobody has said."""
  if name in METRICS or name in WRITTEN:
    return (METRICS | WRITTEN)[name]
  if found := _pattern(_QUALITY).fullmatch(name):
    return _BY_RATER._replace(title=f"quality by {found[1]}")
  for template, metric in _BY_JUDGE.items():
    if found := _pattern(template).fullmatch(name):
      return metric._replace(
        title=f"{metric.title} by {found[1]}",
        judge=found[1],
        column=metric.title,
      )
  return None


def tested_as(name: str) -> str:
  """Returns the metric whose test is also this one's; mostly itself."""
  for template, other in _REPEATS.items():
    if found := _pattern(template).fullmatch(name):
      return other.format(found[1])
  return name


def metric_of(name: str) -> Metric:
  """Returns what a metric of this name means.

  Raises:
    KeyError: nobody has said.
  """
  found = describe(name)
  if found is None:
    raise KeyError(f"no metric is called {name!r}")
  return found


def in_order(names: Iterable[str]) -> list[str]:
  """Returns the metrics that have a meaning, each once, in the table's order.

  Those of METRICS, of titles and of quality, then judge by judge as they come.
  """
  known = {n: found for n in names if (found := describe(n)) is not None}
  judges = list(dict.fromkeys(m.judge for m in known.values() if m.judge))
  rated = [name for name in known if _pattern(_QUALITY).fullmatch(name)]
  order = [
    *METRICS,
    *WRITTEN,
    *rated,
    *(t.format(j) for j in judges for t in _BY_JUDGE),
  ]
  return [name for name in order if name in known]


def judges(names: Iterable[str]) -> list[str]:
  """Returns the judges that some metric is by, as they come."""
  found = (describe(name) for name in names)
  return list(dict.fromkeys(m.judge for m in found if m and m.judge))


def tables(names: Iterable[str]) -> list[Table]:
  """Returns the tables that metrics stand in, those with a meaning.

  The reward's CLIP and the truth have one, titles and captions one, each judge
  two.
  """
  known = in_order(names)
  found = _by_no_judge(known, details=True)
  for judge in judges(known):
    for kind, templates in (
      ("likeness", _LIKENESS),
      ("ranking and sets", _RANKING),
    ):
      own = [t.format(judge) for t in templates if t.format(judge) in known]
      found.append(Table(f"{judge}: {kind}", own, judged=True))
  return [table for table in found if table.names]


def brief(names: Iterable[str]) -> list[Table]:
  """Returns the tables of the terminal: one each, without details."""
  known = in_order(names)
  found = _by_no_judge(known, details=False)
  found += [
    Table(
      judge,
      [
        name
        for name in known
        if metric_of(name).judge == judge
        and name not in [detail.format(judge) for detail in _DETAILS]
      ],
      judged=True,
    )
    for judge in judges(known)
  ]
  return [table for table in found if table.names]


def _by_no_judge(known: Sequence[str], *, details: bool) -> list[Table]:
  """Returns the tables of metrics that no judge has seen."""
  own = [n for n in known if not metric_of(n).judge and n not in WRITTEN]
  if not details:
    own = [n for n in own if n not in _DETAILS]
  written = [n for n in known if n in WRITTEN]
  kinds = dict.fromkeys(  # what a table of captions alone has is no titles
    "captions" if n == "caption_accuracy" else "titles" for n in written
  )
  title = " and ".join(kinds).capitalize()
  return [Table("", own), Table(title, written)]
