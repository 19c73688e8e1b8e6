import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.analysis import hlo, hlo_collectives
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.train import microbatch


def test_every_mth_prompt_is_in_a_part():
  """Contiguous prompts would move between devices."""
  rows = jnp.arange(6.0)

  def together(x):
    return jnp.broadcast_to(x[None], (3, 3))

  found = microbatch.map_prompts(together, 2, rows)
  even, odd = [0, 2, 4], [1, 3, 5]
  np.testing.assert_array_equal(found, [even, odd] * 3)

  def loss(params, x):
    return (params * x).mean(), {"sum": x.sum(), "kept": x + 1}

  for parts, sums in ((1, [15]), (2, [6, 9])):
    (value, left), slope = microbatch.value_and_grad(
      loss, parts, jnp.float32(2), rows
    )
    assert value == 5
    assert slope == 2.5
    np.testing.assert_array_equal(left["sum"], sums)
    np.testing.assert_array_equal(left["kept"], rows + 1)


def test_no_prompt_leaves_its_device():
  mesh = mesh_lib.make_mesh(8)
  rows = sharding.put_batch(mesh, np.ones((16, 3), np.float32))
  double = jax.jit(
    lambda x: microbatch.map_prompts(lambda part: 2 * part, 2, x)
  )
  program = hlo.parse(double.lower(rows).compile().as_text())
  assert hlo_collectives.find(program) == []
