import pytest

from genrec_jax.study.limits import RateLimit


def test_a_burst_and_then_so_many_a_second():
  now = [0.0]
  limit = RateLimit(3, 2, clock=lambda: now[0])
  assert [limit.wait("a") for _ in range(3)] == [0, 0, 0]
  assert limit.wait("a") == pytest.approx(0.5)
  assert limit.wait("b") == 0  # another address has its own
  now[0] = 0.5
  assert limit.wait("a") == 0
  assert limit.wait("a") > 0
  now[0] = 100  # no more than a burst is saved up
  assert [limit.wait("a") > 0 for _ in range(4)] == [False] * 3 + [True]


def test_it_remembers_a_limited_number_of_addresses():
  limit = RateLimit(1, 1, most=3, clock=lambda: 0.0)
  for address in "abcd":
    limit.wait(address)
  assert limit.wait("d") > 0
  assert limit.wait("a") == 0  # forgotten: who asked longest ago
