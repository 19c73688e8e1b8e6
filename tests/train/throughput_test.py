"""Work and rates by hand."""

import types

import jax
import pytest

from genrec_jax.testing import tiny_janus
from genrec_jax.train import throughput


def test_the_work_of_a_step_by_hand():
  found = throughput.work(
    10,
    prompts=2,
    tokens=7,
    images=3,
    samples=4,
    codes=5,
    branches=2,
    forward=2,
    updates=3,
  )
  # 2 (7 + 4 * 5) = 54 tokens, of two branches, in 2 + 3 * 3 passes.
  assert found == (8, 14, 54, 2 * 10 * 2 * 54 * 11)


def test_weights_are_those_of_decoding():
  model = tiny_janus()
  params = jax.eval_shape(model.init, jax.random.key(0))
  language = params["language"]
  counted = [language["layers"], language["norm"], params["image_head"]]
  expected = sum(leaf.size for leaf in jax.tree.leaves(counted))
  assert throughput.count_weights(model) == expected


class Time:
  now = 100.0

  def monotonic(self):
    return self.now


@pytest.mark.parametrize(
  ("kind", "peak"), [("TPU v5 lite", 2 * 197e12), ("cpu", None)]
)
def test_rates_are_of_steps_alone(monkeypatch, kind, peak):
  time = Time()
  monkeypatch.setattr(throughput, "time", time)
  devices = [types.SimpleNamespace(device_kind=kind)] * 2
  clock = throughput.Clock(throughput.Work(8, 14, 54, 1e12), devices)
  assert clock.line() == ""
  assert clock.tick() == {}  # the step that compiled
  time.now += 2
  rates = clock.tick()
  assert rates["samples_per_second"] == 4
  assert rates["images_per_second"] == 7
  assert rates["tokens_per_second"] == 27
  assert ("mfu" in rates) == (peak is not None)
  if peak:
    assert rates["mfu"] == 1e12 / 2 / peak
  clock.pause()
  time.now += 1000  # an evaluation
  assert clock.tick() == {}
  time.now += 1
  assert clock.tick()["samples_per_second"] == 8
  time.now += 4
  clock.tick()
  line = f"throughput of 2 x {kind}: 4 samples/s, 7 images/s, 27 tokens/s"
  assert clock.line() == line + (", MFU 0.1%" if peak else "")  # the median's
