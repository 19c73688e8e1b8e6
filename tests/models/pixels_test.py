import jax.numpy as jnp

from genrec_jax.models import pixels


def test_pixels_are_rounded_and_those_outside_are_clipped():
  values = jnp.asarray([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.1])
  found = pixels.to_uint8(values)
  assert found.dtype == jnp.uint8
  assert found.tolist() == [0, 0, 0, 1, 255, 255]
