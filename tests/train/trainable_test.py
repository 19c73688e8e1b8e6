"""What is trained, what rests, and in which type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.models import janus
from genrec_jax.testing import tiny_janus
from genrec_jax.train import trainable

MODEL = tiny_janus().with_compute(dtype="bfloat16")
SHAPES = jax.eval_shape(MODEL.init, jax.random.key(0))
SPECS = sharding.specs(janus.RULES, SHAPES)


def partition(patterns, lora_rank=0):
  return trainable.partition(
    MODEL, SHAPES, SPECS, patterns=patterns, lora_rank=lora_rank
  )


def test_trained_and_rest_are_all_parameters():
  parts = partition(("^image_head/",))
  assert parts.adapters is None
  trained, rest = tree.flatten(parts.trained), tree.flatten(parts.rest)
  assert trained.keys() | rest.keys() == tree.flatten(SHAPES).keys()
  assert {path.split("/")[0] for path in trained} == {"image_head"}
  assert trained.keys() == tree.flatten(parts.trained_specs).keys()
  assert rest.keys() == tree.flatten(parts.rest_specs).keys()
  # What is trained stays float32; what rests is as every use casts it.
  assert {leaf.dtype for leaf in trained.values()} == {jnp.dtype("float32")}
  assert rest["language/norm/scale"].dtype == jnp.bfloat16


def test_with_adapters_every_parameter_rests():
  parts = partition(("^language/",), lora_rank=2)
  assert tree.flatten(parts.rest).keys() == tree.flatten(SHAPES).keys()
  assert all("lora" in path for path in tree.flatten(parts.trained))
  made = parts.adapters(jax.random.key(0))
  jax.tree.map(
    lambda leaf, like: np.testing.assert_equal(leaf.shape, like.shape),
    made,
    parts.trained,
  )


def test_a_pattern_without_a_gradient_is_refused():
  with pytest.raises(UserError, match=r"no gradient.*\n  lm_head"):
    partition(("^image_head/", "lm_head"))


def test_a_step_knows_whether_what_reads_images_is_trained():
  for pattern in ("^image_head/", "^aligner/"):
    assert trainable.reads_as_frozen(MODEL, partition((pattern,)).trained)
  assert not trainable.reads_as_frozen(MODEL, partition(("^vision/",)).trained)
  adapters = partition(("^language/",), lora_rank=2).trained
  assert trainable.reads_as_frozen(MODEL, adapters)
