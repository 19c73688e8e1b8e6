import pytest

from genrec_jax.evals import metrics


def test_a_metric_of_a_judge_is_described_by_its_name():
  found = metrics.metric_of("future_dinov2_base_mean")
  assert found.title == "future mean by dinov2_base"
  assert found.head == "future mean"
  assert found.judge == "dinov2_base"
  assert found.better == 1
  assert metrics.metric_of("kid_tiny_judge").better == -1


def test_what_is_by_the_rewards_clip_has_no_judge():
  for name in metrics.METRICS:
    found = metrics.metric_of(name)
    assert (found.judge, found.head) == ("", found.title)


def test_a_metric_of_ones_own_comes_before_a_judges_of_its_name(
  monkeypatch,
):
  own = metrics.Metric("text max", 1, "The best sample.")
  monkeypatch.setitem(metrics.METRICS, "text_clip_max", own)
  assert metrics.metric_of("text_clip_max") == own


def test_unknown_names():
  assert metrics.describe("future_mean") is None
  with pytest.raises(KeyError, match="'future_mean'"):
    metrics.metric_of("future_mean")


def test_order_is_that_of_the_table_judge_by_judge():
  names = [
    "mrr_b",
    "history_a_mean",
    "diversity",
    "unknown",
    "text_clip",
    "history_b_mean",
    "mrr_a",
    "mrr_b",
  ]
  assert metrics.in_order(names) == [
    "text_clip",
    "diversity",
    "history_b_mean",
    "mrr_b",
    "history_a_mean",
    "mrr_a",
  ]
  assert metrics.judges(names) == ["b", "a"]


def test_every_metric_has_an_end_that_is_better_or_none():
  names = [template.format("x") for template in metrics._BY_JUDGE]
  found = [metrics.metric_of(name) for name in [*metrics.METRICS, *names]]
  assert {m.better for m in found} == {-1, 0, 1}
  assert all(m.meaning.endswith((".", "?")) for m in found)
  assert metrics.in_order(names) == names


def test_tables_are_of_one_encoder_each():
  names = ["kid_b", "future_a_mean", "text_clip", "unknown", "future_b_next"]
  assert metrics.tables(names) == [
    ("", ["text_clip"], False),
    ("b: likeness", ["future_b_next"], True),
    ("b: ranking and sets", ["kid_b"], True),
    ("a: likeness", ["future_a_mean"], True),
  ]
  # Details are left to the page.
  assert metrics.brief(names) == [
    ("", ["text_clip"], False),
    ("b", ["kid_b"], True),
    ("a", ["future_a_mean"], True),
  ]
  assert metrics.tables([]) == metrics.brief([]) == []


def test_titles_and_captions_have_a_table_of_their_own():
  names = ["caption_accuracy", "kid_b", "text_clip", "title_cut"]
  expected = [
    ("", ["text_clip"], False),
    ("Titles and captions", ["title_cut", "caption_accuracy"], False),
  ]
  assert metrics.tables(names)[:2] == metrics.brief(names)[:2] == expected


@pytest.mark.parametrize(
  ("name", "title"), [("caption_accuracy", "Captions"), ("title_cut", "Titles")]
)
def test_their_table_is_called_by_what_is_in_it(name, title):
  assert metrics.tables([name]) == [(title, [name], False)]
