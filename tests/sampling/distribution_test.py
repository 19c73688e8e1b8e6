"""The distribution by hand: temperature, top-k, top-p, greedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.sampling import Sampling


def test_top_k_and_top_p_by_hand():
  probs = np.asarray([0.4, 0.3, 0.15, 0.1, 0.05])
  logits = jnp.log(probs)
  top = np.exp(Sampling(top_k=2).logprobs(logits))
  np.testing.assert_allclose(top, [4 / 7, 3 / 7, 0, 0, 0], rtol=1e-6)
  # 0.4 + 0.3 < 0.72, so the third code is needed to reach it.
  top = np.exp(Sampling(top_p=0.72).logprobs(logits))
  np.testing.assert_allclose(
    top, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0], rtol=1e-5
  )
  top = np.exp(Sampling(temperature=0.5).logprobs(logits))
  np.testing.assert_allclose(top, probs**2 / np.sum(probs**2), rtol=1e-5)
  # The temperature first: of probabilities 16, 9, 2.25, 1, 0.25 the first two
  # are 25 of 28.5, more than 0.8. After the cut three codes would be left.
  top = np.exp(Sampling(temperature=0.5, top_p=0.8).logprobs(logits))
  np.testing.assert_allclose(top, [16 / 25, 9 / 25, 0, 0, 0], rtol=1e-5)
  # A code that scoring insists on stays in; the others keep their ratio.
  kept = np.exp(Sampling(top_k=1).logprobs(logits, keep=jnp.int32(4)))
  np.testing.assert_allclose(kept, [8 / 9, 0, 0, 0, 1 / 9], rtol=1e-5)


@pytest.mark.parametrize(
  "options", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="expected"):
    Sampling(**options)


def test_draw_folds_nothing_and_reports_what_it_drew_from():
  logits = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]] * 64))
  sampling = Sampling(temperature=0.7, top_k=3)
  codes, logprobs = sampling.draw(logits, jax.random.key(0))
  assert codes.dtype == jnp.int32
  assert set(np.unique(codes)) == {0, 1, 2}  # the fourth is cut off
  expected = sampling.logprobs(logits)[np.arange(64), codes]
  np.testing.assert_array_equal(logprobs, expected)
  codes, logprobs = Sampling(greedy=True).draw(logits, jax.random.key(0))
  np.testing.assert_array_equal(codes, 0)
  np.testing.assert_array_equal(logprobs, 0)


def test_only_a_guidance_other_than_one_guides():
  assert not Sampling().guided
  assert Sampling(guidance=0.5).guided
