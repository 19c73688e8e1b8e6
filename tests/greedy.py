"""The likeliest codes of an image, as other code of the same model has them."""

import functools

import jax
import numpy as np

from genrec_jax import sampling


@functools.cache  # traced once for all prompts of one shape
def _sampler(model, guidance):
  options = sampling.Sampling(num_samples=1, guidance=guidance, greedy=True)
  return jax.jit(
    lambda params, prompt: sampling.sample_images(
      model, params, prompt, jax.random.key(0), options
    ).codes[:, 0]
  )


def greedy_codes(model, params, prompt, guidance=5.0):
  """Returns codes [P, I], each the likeliest after those before it."""
  return np.asarray(_sampler(model, guidance)(params, prompt))
