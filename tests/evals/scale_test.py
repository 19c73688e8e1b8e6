import pytest

from genrec_jax.evals.scale import Scale, around


def test_values_are_places():
  scale = Scale(1.0, 3.0, 100, 0)  # upwards, as pixels grow downwards
  assert [scale.place(v) for v in (1, 2, 3)] == [100, 50, 0]
  assert scale.ticks(3) == [(100, 1), (50, 2), (0, 3)]


def test_a_scale_is_never_0_wide():
  assert around([2.0, 2.0], 0, 10).place(2.0) == 5
  assert around([1.0, 1.0 + 1e-12], 0, 10).place(1.0) == pytest.approx(5)
  scale = around([0.0, 1.0], 0, 112)
  assert scale.place(0) == pytest.approx(6)
  assert scale.place(1) == pytest.approx(106)
