"""Compiled functions of evaluation, over the rows of a batch.

One compilation serves every model of the table: models differ in parameters,
never in shapes.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.core.types import PyTree, Title
from genrec_jax.models.api import Generator
from genrec_jax.models.pixels import to_uint8
from genrec_jax.runtime import compiler, distributed
from genrec_jax.sampling import (
  Sampling,
  Titles,
  decode_images,
  generate_images,
  rollout_params,
  sample_items,
)


class Titled(NamedTuple):
  """Generated images and the titles that they were generated after."""

  images: jax.Array  # uint8 [P, G, h, w, 3]
  title: Title  # [P, G, W]


# (params, prompt of P rows, key[, temperature]) -> uint8 [P, G, h, w, 3], or
# the same with titles
Generate = Callable[..., jax.Array | Titled]
# (params, uint8 [P, h, w, 3]) -> the same
Reconstruct = Callable[[PyTree, np.ndarray], jax.Array]


def make_generate(
  model: Generator,
  sampling: Sampling,
  *,
  mesh: Mesh,
  to_rollout_layout: Callable[[PyTree], PyTree] = lambda params: params,
  titles: Titles | None = None,
) -> Generate:
  """Compiles (params, prompt, key[, temperature]) -> uint8 [P, G, h, w, 3].

  One compilation serves all temperatures; by default it is that of `sampling`.

  Args:
    model: the generator.
    sampling: how images are sampled, and how many.
    mesh: the rows of a prompt are split over it.
    to_rollout_layout: lays out parameters for the decode loop, in the graph.
    titles: how titles before the images are written; with them the result is
      `Titled`. None: there are none.
  """

  def generate(params, prompt, key, temperature):
    words = titles is not None
    params = rollout_params(model, params, to_rollout_layout, words=words)
    sampled = dataclasses.replace(sampling, temperature=temperature)
    if titles is None:
      # [P, G, h, w, 3] float32
      pixels = generate_images(model, params, prompt, key, sampled)
      # CLIP sees the rounded ones: what a reader of the results sees.
      return to_uint8(pixels)
    rollout = sample_items(model, params, prompt, key, sampled, titles)
    assert rollout.title is not None
    pixels = decode_images(model, params, rollout.codes)
    return Titled(to_uint8(pixels), rollout.title)

  compiled = compile_rows(generate, mesh)

  def call(params, prompt, key, temperature=sampling.temperature):
    return compiled(params, prompt, key, np.float32(temperature))

  return call


def make_reconstruct(model: Generator, *, mesh: Mesh) -> Reconstruct:
  """Compiles (params, uint8 [P, h, w, 3]) -> the images encoded and decoded.

  They go through the model's own image tokenizer, as what it generates does.
  """

  def reconstruct(params, images):
    codes = model.encode_pixels(params, images.astype(jnp.float32) / 255)
    codes = codes[:, None]  # [P, 1, I], one sample of each
    pixels = decode_images(model, params, codes)[:, 0]
    return to_uint8(pixels)  # [P, h, w, 3]

  return compile_rows(reconstruct, mesh)


def compile_rows(function: Callable, mesh: Mesh) -> Callable:
  """Compiles (params, rows, ...) -> rows, split by rows over a mesh.

  Args:
    function: its first argument is parameters, its second and its result are
      trees of arrays [P, ...].
    mesh: P is split over its axes of examples.

  Returns:
    The function, which takes rows from the host or from the devices.
  """
  options = compiler.options(mesh.devices.flat[0].platform)
  by_row = NamedSharding(mesh, sharding.BATCH)
  compiled = jax.jit(
    sharding.trace_with_mesh(mesh, function),
    compiler_options=options,
    # Where rows of the host are put, too: a result that is the next function's
    # argument, generated images for CLIP, stays in place and needs no second
    # compilation.
    out_shardings=by_row,
  )

  def put(leaf):
    if isinstance(leaf, jax.Array):  # a result of another of these functions
      return leaf
    return distributed.put_global(by_row, leaf)

  def call(params, rows, *rest):
    return compiled(params, jax.tree.map(put, rows), *rest)

  return call
