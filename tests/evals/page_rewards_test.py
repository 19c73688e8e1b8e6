"""Which curves stand next to a reward's, and how the page shows them."""

from genrec_jax.evals import page, page_rewards

CURVES = {
  name: [(0, 0.1), (5, value), (10, 2 * value)]
  for name, value in {
    "reward": 1.0,
    "reward/future_mean": 0.2,
    "reward/future_weighted_mean": 0.2,
    "reward/future_dino_mean": 0.2,
    "reward/diversity_mean": 0.3,
    "reward/quality_mean": 20.0,
    "reward/text_mean": 0.2,
    "reward/future_std": 0.1,
    "eval/future_clip_mean": 0.2,
    "eval/future_siglip_mean": 0.3,
    "eval/future_dinov2_base_mean": 0.4,
    "eval/diversity_siglip": 0.5,
    "eval/diversity": 0.5,
    "loss": 1.0,
  }.items()
}
SUMMARY = {"users": 2, "models": {"rl": {}}, "shuffled": {}}


def titles(found):
  return {pair.name: [chart.title for chart in pair.judges] for pair in found}


def test_a_reward_stands_next_to_the_same_by_judges():
  future = ["future mean by dinov2_base", "future mean by siglip"]
  assert titles(page_rewards.section(CURVES, SUMMARY)) == {
    "diversity": ["diversity by siglip"],
    "future": future,
    "future_dino": future,
    # No judge says anything of these: what no reward should lower.
    "quality": future,
    "text": future,
  }


def test_without_judges_there_is_nothing_to_show():
  alone = {
    k: curve
    for k, curve in CURVES.items()
    if "siglip" not in k and "dinov2" not in k
  }
  assert page_rewards.section(alone, SUMMARY) == []
  assert "Rewards and their judges" not in written(alone)


def written(curves):
  return page.page(SUMMARY, title="t", stamp="s", curves=curves)


def test_the_page_shows_them():
  text = written(CURVES)
  assert text.count("<h2>Rewards and their judges</h2>") == 1
  part = text.split("Rewards and their judges")[1].split("<h2>")[0]
  assert part.count("<figure") == 5 + 1 + 4 * 2
