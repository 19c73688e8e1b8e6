"""KID, CMMD and Frechet's distance by hand, by loops, and by torch-fidelity."""

import importlib.util
import sys
from unittest import mock

import numpy as np
import pytest

from genrec_jax.evals import differences, intervals, set_distances
from genrec_jax.evals.set_distances import cmmd_kernel, kid_kernel


def unit(seed, *shape, shift=0.0):
  vectors = np.random.default_rng(seed).normal(size=shape) + shift
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def once(users):
  """Returns the counts of the set as it is."""
  return np.ones((1, users), int)


def by_loops(kernel, generated, real):
  """Returns the discrepancy, a pair at a time."""
  flat = generated.reshape(-1, generated.shape[-1])

  def mean(one, other, same):
    pairs = [
      kernel(x @ y)
      for i, x in enumerate(one)
      for j, y in enumerate(other)
      if not (same and i == j)
    ]
    return np.mean(pairs)

  return (
    mean(flat, flat, True)
    + mean(real, real, True)
    - 2 * mean(flat, real, False)
  )


def test_kernels_by_hand():
  cosines = np.asarray([1.0, 0.0, -1.0])
  assert kid_kernel(cosines).tolist() == [8, 1, 0]
  # exp(-|x - y|^2 / 200) of distances 0, 2 and 4, less 1, in thousandths.
  expected = 1000 * (np.exp([0, -0.01, -0.02]) - 1)
  np.testing.assert_allclose(cmmd_kernel(cosines), expected, rtol=1e-12)


def test_distances_by_hand():
  # Two users: both samples on one axis, both real items on the other.
  generated = np.asarray([[[1.0, 0.0]], [[1.0, 0.0]]])
  real = np.asarray([[0.0, 1.0], [0.0, 1.0]])
  found = set_distances.distances(generated, real, once(2))
  assert found.kid == pytest.approx([8 + 8 - 2 * 1])
  assert found.cmmd == pytest.approx([2000 * (1 - np.exp(-0.01))])


@pytest.mark.parametrize("samples", [1, 3])
def test_distances_are_means_over_pairs(samples, monkeypatch):
  monkeypatch.setattr(set_distances, "_CHUNK", 40)  # a user or two at a time
  generated, real = unit(0, 5, samples, 8, shift=0.3), unit(1, 5, 8)
  found = set_distances.distances(generated, real, once(5), own_pairs=True)
  for values, kernel in zip(found, (kid_kernel, cmmd_kernel), strict=True):
    expected = by_loops(kernel, generated, real)
    np.testing.assert_allclose(values, [expected], rtol=1e-9)


def test_pairs_of_one_users_images_do_not_count():
  """By loops over pairs of two users."""
  generated, real = unit(0, 4, 2, 8, shift=0.3), unit(1, 4, 8)

  def mean(one, other):
    return np.mean(
      [
        kid_kernel(x @ y)
        for u in range(4)
        for v in range(4)
        for x in one[u]
        for y in other[v]
        if u != v
      ]
    )

  single = real[:, None]
  expected = (
    mean(generated, generated)
    + mean(single, single)
    - 2 * mean(generated, single)
  )
  found = set_distances.distances(generated, real, once(4))
  assert found.kid == pytest.approx([expected])


def test_images_that_fit_their_users_are_no_nearer_to_the_set():
  """Each user is shown the item itself: the same set, and no distance."""
  estimates = []
  for seed in range(300):
    real = unit(seed, 10, 4)
    found = set_distances.distances(real[:, None], real, once(10))
    estimates.append(found.kid[0])
  np.testing.assert_allclose(estimates, 0, atol=1e-12)
  known = set_distances.distances(real[:, None], real, once(10), own_pairs=True)
  assert known.kid[0] < -0.5


def test_the_estimate_has_no_bias_for_small_sets_nor_in_resamples():
  """Of two sets of one distribution the distance is 0 in the mean."""
  estimates, resampled = [], []
  for seed in range(400):
    generated, real = unit(2 * seed, 8, 2, 4), unit(2 * seed + 1, 8, 4)
    counts = set_distances.resample(8, seed, resamples=20)
    kid = set_distances.distances(generated, real, counts).kid
    estimates.append(kid[0])
    resampled.append(np.nanmean(kid[1:]))
  for values in (estimates, resampled):
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert 3 * error < 0.1  # pairs of one image with itself would add 0.5


def test_the_interval_covers_the_distance():
  """Known from sets so large that they have hardly an error of their own."""
  true = set_distances.distances(
    unit(1, 3000, 1, 6, shift=0.4), unit(2, 3000, 6), once(3000)
  ).kid[0]
  hits = []
  for seed in range(100):
    generated = unit(10 + seed, 60, 1, 6, shift=0.4).repeat(2, 1)
    counts = set_distances.resample(60, seed, resamples=200)
    found = set_distances.distances(
      generated[:, :1], unit(500 + seed, 60, 6), counts
    )
    cell = set_distances.interval(found.kid)
    hits.append(cell["low"] <= true <= cell["high"])
  assert 0.88 <= np.mean(hits) <= 0.99


def _parts(generated, real):
  counts = np.concatenate(
    [once(len(real)), set_distances.all_but_one(len(real))]
  )
  kid, cmmd = set_distances.distances(generated, real, counts)
  return [set_distances.parts(x[0], x[1:]) for x in (kid, cmmd)]


def test_parts_of_users_by_hand():
  """Of three users the distance without one is that of the other two."""
  generated, real = unit(0, 3, 2, 8), unit(1, 3, 8)
  whole = set_distances.distances(generated, real, once(3)).kid[0]
  two = set_distances.distances(generated[1:], real[1:], once(2)).kid[0]
  assert _parts(generated, real)[0][0] == pytest.approx(3 * whole - 2 * two)


def test_parts_have_the_distance_as_their_mean_and_its_interval():
  generated, real = unit(0, 300, 2, 8, shift=0.4), unit(1, 300, 8)
  counts = set_distances.resample(300, 0)
  found = set_distances.distances(generated, real, counts)
  for values, own in zip(found, _parts(generated, real), strict=True):
    expected = set_distances.interval(values)
    cell = intervals.bootstrap({"x": own}, seed=0)["x"]
    assert cell["mean"] == pytest.approx(values[0], rel=1e-9)
    width = expected["high"] - expected["low"]
    assert cell["low"] == pytest.approx(expected["low"], abs=0.1 * width)
    assert cell["high"] == pytest.approx(expected["high"], abs=0.1 * width)


@pytest.mark.parametrize(("shift", "expected"), [(1.0, 0.05), (0.0, 0.0)])
def test_equal_models_are_told_apart_as_rarely_as_said(shift, expected):
  """Two sets at the same distance from the real one, of the same users.

  Hardly ever where that is none: the test then errs on the safe side.
  """
  p = []
  for seed in range(300):
    rng = np.random.default_rng(seed)
    taste = 0.7 * rng.normal(size=(40, 1, 6))  # shared by a user's images
    images = taste + rng.normal(size=(40, 5, 6))
    images[:, :4, 0] += shift
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    own, others = (
      _parts(x, images[:, 4])[0] for x in (images[:, :2], images[:, 2:4])
    )
    difference = (own - others)[:, None]
    p += [*differences.sign_flip_p(difference, seed=0, resamples=300)]
  assert abs(np.mean(np.asarray(p) < 0.05) - expected) < 0.03


def test_resamples_are_seeded_and_begin_with_the_set_itself():
  counts = set_distances.resample(7, seed=3, resamples=5)
  assert counts.shape == (6, 7)
  assert counts[0].tolist() == [1] * 7
  assert counts.sum(1).tolist() == [7] * 6
  np.testing.assert_array_equal(counts, set_distances.resample(7, 3, 5))
  assert (counts != set_distances.resample(7, 4, 5)).any()


def test_one_user_has_no_distance():
  found = set_distances.distances(unit(0, 1, 1, 4), unit(1, 1, 4), once(1))
  assert np.isnan(found.kid).all()


def test_an_interval_is_of_the_resamples():
  cell = set_distances.interval(np.arange(101.0))
  assert cell == pytest.approx({"mean": 0.0, "low": 3.475, "high": 97.525})


def test_resamples_without_a_value_do_not_count():
  values = np.asarray([0.5, np.nan, 1.0, np.nan, 1.0])
  found = set_distances.interval(values)
  assert found == {"mean": 0.5, "low": 1.0, "high": 1.0}


def test_frechet_by_hand():
  """Of lines: |m1 - m2|^2 + (s1 - s2)^2, deviations by N - 1."""
  one = np.asarray([[0.0], [2.0]])  # mean 1, variance 2
  other = np.asarray([[2.0], [10.0]])  # mean 6, variance 32
  expected = 25 + (32**0.5 - 2**0.5) ** 2
  assert set_distances.frechet(one, other) == pytest.approx(expected)
  assert set_distances.frechet(one, one) == pytest.approx(0)


def test_frechet_of_fewer_images_than_dimensions():
  """Singular covariances: turning both sets changes nothing."""
  one, other = unit(0, 5, 12), unit(1, 4, 12, shift=0.2)
  turn = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0]
  found = set_distances.frechet(one, other)
  assert found > 0
  assert set_distances.frechet(one @ turn, other @ turn) == pytest.approx(found)


# Of `sets()`, by torch-fidelity 0.4.0 as in the last test: KID of one subset,
# which is the whole set.
FIDELITY_KID, FIDELITY_FRECHET = 0.4477707642, 0.2457078285


def sets():
  """Returns generated [96, 24] and real embeddings [96, 24]."""
  return unit(0, 96, 24, shift=0.5), unit(1, 96, 24, shift=0.1)


def ours():
  generated, real = sets()
  counts, images = once(96), generated[:, None]
  found = set_distances.distances(images, real, counts, own_pairs=True)
  return found.kid[0], set_distances.frechet(generated, real)


def test_kid_and_frechet_are_those_that_torch_fidelity_gave():
  kid, frechet = ours()
  assert kid == pytest.approx(FIDELITY_KID, rel=1e-6)
  assert frechet == pytest.approx(FIDELITY_FRECHET, rel=1e-6)


def test_kid_and_frechet_equal_those_of_torch_fidelity(monkeypatch):
  """Where it is installed without its networks, `pip install --no-deps`."""
  # What its networks need, and these functions do not: with torchvision all
  # image processors of transformers would be other ones in all other tests.
  for part in ("", ".datasets", ".transforms", ".transforms.functional"):
    monkeypatch.setitem(sys.modules, f"torchvision{part}", mock.MagicMock())
  if importlib.util.find_spec("torch_fidelity") is None:
    pytest.skip("torch-fidelity is not installed")
  import torch
  from torch_fidelity import metric_fid, metric_kid

  generated, real = sets()
  scaled = [torch.tensor(x * 24**0.5) for x in (generated, real)]
  kid = metric_kid.kid_features_to_metric(
    *scaled, kid_subsets=1, kid_subset_size=96, verbose=False
  )
  statistics = [
    metric_fid.fid_features_to_statistics(torch.tensor(x))
    for x in (generated, real)
  ]
  fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
  found = ours()
  assert found[0] == pytest.approx(kid["kernel_inception_distance_mean"], 1e-6)
  assert found[1] == pytest.approx(fid["frechet_inception_distance"], 1e-6)
