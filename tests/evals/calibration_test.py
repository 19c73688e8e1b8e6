import dataclasses

import numpy as np
import pytest

from genrec_jax.evals import calibration


def darker(images):
  """Stands for a VQ tokenizer that loses a little."""
  return (images // 2).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 5, 24, 1000])
def test_cosines_are_those_of_each_item_once(catalogue, panel, size):
  """Whatever fills up a batch of 3 x 4 is not counted."""
  items = catalogue[:size]
  found = calibration.cosines(
    items, darker, panel.embed_images, batch_size=3, num_samples=4, seed=0
  )["eye"]
  count = min(len(items), calibration.ITEMS)
  chosen = items[np.random.default_rng(0).permutation(len(items))[:count]]
  a = panel.embed_images(chosen)["eye"]
  own = np.sum(a * panel.embed_images(darker(chosen))["eye"], -1)
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


def test_one_item_has_no_pairs(catalogue, panel):
  found = calibration.cosines(
    catalogue[:1],
    darker,
    panel.embed_images,
    batch_size=2,
    num_samples=2,
    seed=0,
  )["eye"]
  assert len(calibration.describe(found, 0.9)) == 1
  assert "pairs" not in calibration.describe_judge(found, 0.9, "eye")


def test_a_judges_threshold_is_measured(evaluator, capsys):
  found = calibration.calibrated(
    dataclasses.replace(
      evaluator, reconstruct=lambda params, images: darker(images) + params
    ),
    np.uint8(0),
  )
  thresholds = found.copy_thresholds
  assert thresholds["clip"] == evaluator.copy_thresholds["clip"] == 0.95
  cosines = calibration.cosines(
    found.catalogue,
    darker,
    found.panel.embed_images,
    batch_size=4,
    num_samples=4,
    seed=0,
  )["eye"]
  assert np.mean(cosines.own >= thresholds["eye"]) == pytest.approx(
    0.95, abs=5e-3
  )
  out = capsys.readouterr().out
  assert f"copy threshold of eye: {thresholds['eye']:.4f}, which 95% of" in out


def test_a_judge_that_sees_copies_everywhere_is_warned_of():
  line = calibration.describe_judge(APART, 0.85, "eye")
  assert line == (
    "copy threshold of eye: 0.8500, which 95% of 1001 items have with their own"
    " VQ reconstruction, and 0.00% of pairs of different items"
  )
  line = calibration.describe_judge(MIXED, 0.715, "eye")
  assert line.startswith("warning: copy threshold of eye: 0.7150, which")
  assert line.endswith(
    "28.57% of pairs of different items: this judge cannot"
    " tell copies from other images"
  )


def test_without_an_image_tokenizer_nothing_is_measured(evaluator, capsys):
  assert calibration.calibrated(evaluator, None) is evaluator
  assert capsys.readouterr().out == ""
