"""Which products ask for all of float32: read off the graphs."""

import dataclasses
import functools

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import testing
from genrec_jax.hf import encoders
from genrec_jax.targets import embed_targets
from tests.hf import random_encoders

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr):
  """Yields the products of a graph, of loops and calls in it, too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in PRODUCTS:
      yield equation
    for part in core.jaxprs_in_params(equation.params):
      yield from products(part)


def precisions(function, *args):
  """Returns the set of precisions of a function's products."""
  found = list(products(jax.make_jaxpr(function)(*args).jaxpr))
  assert len(found) > 5  # else the graph was not read
  return {equation.params["precision"] for equation in found}


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0))


PIXELS = jax.ShapeDtypeStruct((2, 24, 32, 3), jnp.float32)


def test_clip_multiplies_in_float32():
  clip = testing.tiny_clip()
  params = shapes(clip)
  ids = np.ones((2, 5), np.int32)
  assert precisions(clip.embed_images, params, PIXELS) == {HIGHEST}
  assert precisions(clip.embed_texts, params, ids, ids > 0) == {HIGHEST}
  batch = testing.random_batch(2)
  embed = functools.partial(embed_targets, clip)
  assert precisions(embed, params, batch) == {HIGHEST}


@pytest.mark.parametrize(
  "pair", [("dinov2", "gated"), ("siglip", "two_widths")]
)
def test_judges_multiply_in_float32(pair, tmp_path):
  kind, name = pair
  parts = getattr(random_encoders, kind)(name)
  random_encoders.save(tmp_path, *parts, testing.word_tokenizer())
  model = encoders.open_encoder(tmp_path, dtype="float32").model
  params = shapes(model)
  assert precisions(model.embed_images, params, PIXELS) == {HIGHEST}
  if model.text_positions:
    ids = np.ones((2, model.text_positions), np.int32)
    assert precisions(model.embed_texts, params, ids, ids > 0) == {HIGHEST}


def test_clip_in_bfloat16_is_left_alone():
  clip = dataclasses.replace(testing.tiny_clip(), dtype="bfloat16")
  found = jax.make_jaxpr(clip.embed_images)(shapes(clip), PIXELS).jaxpr
  asked = [
    equation.params["precision"]
    for equation in products(found)
    if equation.invars[0].aval.dtype == jnp.bfloat16
  ]
  assert len(asked) > 5
  assert set(asked) == {None}


def test_codes_are_found_in_float32():
  model = testing.tiny_janus()
  params = {"tokenizer": shapes(model.tokenizer)}
  pixels = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  # In a run that computes in bfloat16, too: the tokenizer keeps its type.
  half = model.with_compute(dtype="bfloat16", remat="none")
  for encode in (model.encode_pixels, half.encode_pixels):
    assert precisions(encode, params, pixels) == {HIGHEST}


def test_decoding_is_left_at_the_default():
  model = testing.tiny_janus()
  params = {"tokenizer": shapes(model.tokenizer)}
  codes = jax.ShapeDtypeStruct((2, 4), jnp.int32)
  assert precisions(model.decode_pixels, params, codes) == {None}
