"""A few tensors of several types, and how to compare them."""

import ml_dtypes
import numpy as np

CONFIG = {"model_type": "test", "width": 3}


def tensors():
  """Returns HF name -> array."""
  rng = np.random.default_rng(0)
  return {
    "a.weight": rng.normal(size=(4, 6)).astype(np.float32),
    "b.weight": rng.normal(size=(5, 4)).astype(np.float32).T,  # not contiguous
    "c": np.float32(1.5).reshape(()),
    "d.weight": rng.normal(size=(4, 6)).astype(ml_dtypes.bfloat16),
  }


def assert_same(found, expected):
  """Compares names, shapes, types and bytes."""
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].shape == value.shape
    assert found[name].dtype == value.dtype
    assert np.asarray(found[name]).tobytes() == value.tobytes()
