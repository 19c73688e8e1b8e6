import numpy as np
import pytest

from genrec_jax.evals import calibration


def darker(images):
  """Stands for a VQ tokenizer that loses a little."""
  return (images // 2).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 5, 24, 1000])
def test_cosines_are_those_of_each_item_once(catalogue, judge, size):
  """Whatever fills up a batch of 3 x 4 is not counted."""
  items = catalogue[:size]
  found = calibration.cosines(
    items, darker, judge.embed_images, batch_size=3, num_samples=4, seed=0
  )
  count = min(len(items), calibration.ITEMS)
  chosen = items[np.random.default_rng(0).permutation(len(items))[:count]]
  a = judge.embed_images(chosen)
  own = np.sum(a * judge.embed_images(darker(chosen)), -1)
  np.testing.assert_allclose(found.own, own, rtol=1e-5)
  pairs = [a[i] @ a[j] for i in range(count) for j in range(i + 1, count)]
  np.testing.assert_allclose(found.pairs, pairs, atol=1e-5)


GRID = np.linspace(0, 1, 1001)
APART = calibration.Cosines(own=0.9 + 0.1 * GRID, pairs=0.8 * GRID)
MIXED = calibration.Cosines(own=0.7 + 0.3 * GRID, pairs=GRID)


def test_two_lines_of_quantiles():
  assert calibration.describe(APART, 0.85) == [
    "copy threshold 0.85: 1001 items have with their own VQ reconstruction a"
    " CLIP cosine of 0.9010 (1%), 0.9050 (5%), 0.9500 (50%)",
    "copy threshold 0.85: pairs of different items have a CLIP cosine of"
    " 0.4000 (50%), 0.7920 (99%), 0.7992 (99.9%)",
  ]


@pytest.mark.parametrize(
  ("found", "threshold", "warning"),
  [
    (
      APART,
      0.95,
      "50.0% of exact copies would be missed; take one between 0.7920 and"
      " 0.9050",
    ),
    (
      APART,
      0.6,
      "25.1% of pairs of different items would be copies; take one between"
      " 0.7920 and 0.9050",
    ),
    (
      MIXED,
      0.9203,
      "73.4% of exact copies would be missed and 8.0% of pairs of different"
      " items would be copies; no threshold separates them with this CLIP and"
      " this VQ tokenizer",
    ),
  ],
)
def test_a_threshold_that_does_not_separate_is_warned_of(
  found, threshold, warning
):
  *_, last = lines = calibration.describe(found, threshold)
  assert len(lines) == 3
  assert last == (
    f"warning: the copy threshold {threshold} does not separate copies from"
    f" other images: {warning}"
  )


def test_one_item_has_no_pairs(catalogue, judge):
  found = calibration.cosines(
    catalogue[:1],
    darker,
    judge.embed_images,
    batch_size=2,
    num_samples=2,
    seed=0,
  )
  assert len(calibration.describe(found, 0.9)) == 1
