from genrec_jax.evals import contrasts

MODELS = ["base", "sft", "rl"]


def test_what_is_compared():
  shuffled, known = ["sft shuffled", "rl shuffled"], ["item_knn"]
  assert contrasts.pairs(MODELS, shuffled, known) == [
    ("sft", "base"),
    ("rl", "sft"),
    ("rl", "base"),
    ("base", "item_knn"),
    ("sft", "item_knn"),
    ("rl", "item_knn"),
    ("sft", "sft shuffled"),
    ("rl", "rl shuffled"),
    ("base", "random_item"),
    ("sft", "random_item"),
    ("rl", "random_item"),
    ("real_next_item", "random_item"),
  ]


def test_what_is_shown():
  assert contrasts.shown(MODELS, "sasrec") == [
    "rl - sft",
    "sft - base",
    "rl - sasrec",
    "rl - rl shuffled",
  ]
  assert contrasts.shown(["model"]) == ["model - model shuffled"]
  assert contrasts.shown([]) == []
