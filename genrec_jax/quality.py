"""Quality of an image for a title, as people who chose between two judged it.

A checkpoint of PickScore's format is a `CLIPModel` that was trained on people's
choices (arXiv 2305.01569), such as yuvalkirstain/PickScore_v1. Letters: P
prompts, G samples, E the width of its common space.
"""

import jax
import jax.numpy as jnp


def score(
  images: jax.Array, titles: jax.Array, logit_scale: jax.Array
) -> jax.Array:
  """Returns PickScore, exp(logit_scale) times the cosine: [P, G] float32.

  The difference of two images' scores is the log of the odds that a person
  takes the first, as the model expects it.

  Args:
    images: [P, G, E] unit embeddings of the samples.
    titles: [P, E] unit embeddings of the titles.
    logit_scale: [], the checkpoint's parameter of that name.
  """
  cosines = jnp.einsum(
    "pge,pe->pg", images, titles, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.exp(logit_scale.astype(jnp.float32)) * cosines
