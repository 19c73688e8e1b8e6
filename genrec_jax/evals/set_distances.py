"""Distances of sets: whether generated images look like real next items.

KID and CMMD are squared maximum mean discrepancies (Gretton et al., JMLR 2012)
that differ in their kernel; both are estimated without bias, so that rows with
different numbers of images compare, and may fall a little below 0. Frechet's
distance is biased upwards by as much as the sets are small: compare it at equal
numbers only. All are numpy, float64, on unit embeddings of a judge.

Letters: U users, G samples per user, R resamples, E the judge's width.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genrec_jax.evals.intervals import Interval

RESAMPLES = 1000
_SIGMA, _SCALE = 10.0, 1000.0  # of CMMD, as in its paper
_CHUNK = 2**22  # entries of a kernel matrix at a time, 32 MiB

Kernel = Callable[[np.ndarray], np.ndarray]  # of cosines, elementwise


def kid_kernel(cosines: np.ndarray) -> np.ndarray:
  """Returns (1 + cosine)^3, the kernel of KID (arXiv 1801.01401).

  Theirs is (x y / E + 1)^3: the same for unit vectors times the root of E,
  which have entries of about 1, as features do. At length 1 the kernel would be
  nearly linear, the more so the wider the judge.
  """
  return (1 + cosines) ** 3


def cmmd_kernel(cosines: np.ndarray) -> np.ndarray:
  """Returns 1000 exp(-|x - y|^2 / (2 sigma^2)), sigma 10 (arXiv 2401.09603)."""
  # |x - y|^2 = 2 - 2 x y of unit vectors. Less a constant, which every
  # difference of means is rid of, and which would cost digits: expm1.
  return _SCALE * np.expm1((cosines - 1) / _SIGMA**2)


class Distances(NamedTuple):
  """KID and CMMD of a set as it is, first, and in each resample of users."""

  kid: np.ndarray  # [R + 1]
  cmmd: np.ndarray  # [R + 1]


def resample(users: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
  """Returns how often each user is in each resample: [R + 1, U] int.

  The first row is all ones, every user once. The same seed resamples the same
  users, so that differences of rows are paired.
  """
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(users, np.full(users, 1 / users), size=resamples)
  return np.concatenate([np.ones((1, users), counts.dtype), counts])


def distances(
  generated: np.ndarray,
  real: np.ndarray,
  counts: np.ndarray,
  *,
  own_pairs: bool = False,
) -> Distances:
  """Returns KID and CMMD of generated images from real ones, by resamples.

  Args:
    generated: [U, G, E] unit embeddings of every user's samples.
    real: [U, E] of the items that the users really went on to.
    counts: [R + 1, U] of `resample`.
    own_pairs: count pairs of two images of one user, too, as if all images were
      independent: what torch-fidelity does. They are alike because of the user:
      by them a model that fits users would look nearer to the real set, and one
      whose samples of a user are alike farther from it.

  Returns:
    Values [R + 1]; NaN for fewer than two users.
  """
  counts = np.asarray(counts, np.float64)
  return Distances(
    *(
      _mmd(kernel, generated, real, counts, own_pairs)
      for kernel in (kid_kernel, cmmd_kernel)
    )
  )


def all_but_one(users: int) -> np.ndarray:
  """Returns counts that leave out each user once: [U, U] int; see `parts`."""
  return 1 - np.eye(users, dtype=int)


def parts(whole: float, without: np.ndarray) -> np.ndarray:
  """Returns what each user contributes to a distance: [U], of it as their mean.

  The pseudo-values of the jackknife, U d - (U - 1) d_u, d_u being the distance
  without user u (Tukey 1958). They vary from user to user as the distance
  does from sample to sample, so tests of means take them as any score.

  Args:
    whole: the distance.
    without: [U], of the counts of `all_but_one`.
  """
  users = len(without)
  # Of a mean of scores each part would be that user's score.
  return users * whole - (users - 1) * without


def interval(values: np.ndarray) -> Interval:
  """Returns the first value and the 95 % percentile interval of the others.

  Resamples of one user only have no value, and do not count.
  """
  low, high = np.nanpercentile(values[1:], [2.5, 97.5])
  return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def frechet(generated: np.ndarray, real: np.ndarray) -> float:
  """Returns Frechet's distance of two sets [N, E] and [M, E].

  |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of their means and covariances, as
  in FID (arXiv 1706.08500), whose features are Inception's, not a judge's.
  """
  generated, real = (np.asarray(x, np.float64) for x in (generated, real))
  shift = generated.mean(0) - real.mean(0)
  one, other = (  # [E, E] both
    np.atleast_2d(np.cov(x, rowvar=False)) for x in (generated, real)
  )
  # The trace of the root is the sum of the singular values of S1^(1/2)
  # S2^(1/2), and those roots are well defined for singular matrices, too.
  cross = np.linalg.svd(_root(one) @ _root(other), compute_uv=False).sum()
  return float(shift @ shift + np.trace(one) + np.trace(other) - 2 * cross)


def _root(matrix: np.ndarray) -> np.ndarray:
  """Returns the root of a symmetric matrix without negative eigenvalues."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _mmd(
  kernel: Kernel,
  generated: np.ndarray,
  real: np.ndarray,
  counts: np.ndarray,
  own_pairs: bool,
) -> np.ndarray:
  """Returns squared discrepancies [R + 1], without bias: see `_mean_of_pairs`.

  mean k(x, x') + mean k(y, y') - 2 mean k(x, y), over pairs of two images.
  """
  real = real[:, None]  # [U, 1, E], one image a user
  return (
    _mean_of_pairs(kernel, generated, generated, counts, own_pairs)
    + _mean_of_pairs(kernel, real, real, counts, own_pairs)
    - 2 * _mean_of_pairs(kernel, generated, real, counts, own_pairs)
  )


def _mean_of_pairs(
  kernel: Kernel,
  first: np.ndarray,
  second: np.ndarray,
  counts: np.ndarray,
  own_pairs: bool,
) -> np.ndarray:
  """Returns the mean of a kernel over pairs of images, in each resample.

  No image is paired with itself. A user who is c times in a resample stands for
  c users who are alike: between these no pair counts, as a pair of one image
  with itself would be among them. So a resample has no more bias than the set.

  Args:
    kernel: of cosines.
    first: [U, G, E].
    second: [U, H, E], or `first` itself.
    counts: [R + 1, U] float64.
    own_pairs: pairs of two images of one user count, once for each time that
      the user was sampled.
  """
  same = first is second
  sums = _sums_of_pairs(kernel, first, second, same)  # [U, U]
  size, others = first.shape[1], second.shape[1]  # G, H
  # Pairs of the same user in all c^2 ways that do not count.
  alike = counts**2 - counts * own_pairs  # [R + 1, U]
  total = ((counts @ sums) * counts).sum(1) - alike @ np.diagonal(sums)
  sampled = counts.sum(1)  # [R + 1]
  number = size * others * (sampled**2 - alike.sum(1))
  number -= size * same * own_pairs * sampled  # an image with itself
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _sums_of_pairs(
  kernel: Kernel, first: np.ndarray, second: np.ndarray, same: bool
) -> np.ndarray:
  """Returns sums of a kernel over the images of each two users: [U, U]."""
  users, size, width = first.shape
  flat = np.asarray(second, np.float64).reshape(-1, width).T  # [E, U H]
  rows = max(_CHUNK // (size * flat.shape[1]), 1)  # users at a time
  sums = np.empty((users, users))
  for start in range(0, users, rows):
    some = np.asarray(first[start : start + rows], np.float64)
    values = kernel(some.reshape(-1, width) @ flat)
    # [rows, G, U, H] -> [rows, U]
    shape = (len(some), size, users, second.shape[1])
    sums[start : start + rows] = values.reshape(shape).sum((1, 3))
  if same:  # no image with itself
    own = np.sum(np.asarray(first, np.float64) ** 2, -1)  # [U, G]
    sums[np.diag_indices(users)] -= kernel(own).sum(1)
  return sums
