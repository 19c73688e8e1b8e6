"""Trainable parameters: the part of a generator that the optimizer updates.

Trees here are of parameters or of anything shaped like them: shapes, specs.
"""

from collections.abc import Callable, Sequence
import functools
import re
from typing import NamedTuple

import jax

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.core.types import PyTree
from genrec_jax.models.api import Generator
from genrec_jax.nn import lora


class Partition(NamedTuple):
  """A generator's parameters as a step holds them."""

  trained: PyTree  # shapes
  trained_specs: PyTree  # PartitionSpecs
  rest: PyTree  # shapes, in the type that every use casts to
  rest_specs: PyTree  # PartitionSpecs
  # Initialises adapters, which are then all that is trained; None: no LoRA.
  adapters: Callable[[jax.Array], PyTree] | None


def partition(
  model: Generator,
  shapes: PyTree,
  specs: PyTree,
  *,
  patterns: Sequence[str],
  lora_rank: int,
  words: bool = False,
) -> Partition:
  """Splits a generator's parameters into trained and frozen ones.

  Args:
    model: the generator.
    shapes: of all its parameters.
    specs: PartitionSpecs of the same.
    patterns: of what is trained or, with adapters, adapted.
    lora_rank: of adapters; 0 trains the parameters themselves.
    words: whether answers have words.

  Raises:
    UserError: see `split`.
  """
  trained, rest = split(model, shapes, patterns, words=words)
  trained_specs, rest_specs = split(model, specs, patterns, words=words)
  adapters = None
  if lora_rank:
    kernels = functools.partial(
      lora.kernels, trainable=patterns, adaptable=model.adaptable
    )
    adapters = functools.partial(
      lora.init, kernel_tree=kernels(shapes), rank=lora_rank
    )
    trained = jax.eval_shape(adapters, jax.random.key(0))
    trained_specs = lora.specs(kernels(specs))
    # Adapters stand next to the kernels, all of which are frozen.
    rest, rest_specs = shapes, specs
  return Partition(
    trained=trained,
    trained_specs=trained_specs,
    rest=jax.eval_shape(functools.partial(cast_frozen, model), rest),
    rest_specs=rest_specs,
    adapters=adapters,
  )


def split(
  model: Generator,
  params: PyTree,
  patterns: Sequence[str],
  *,
  words: bool = False,
) -> tuple[PyTree, PyTree]:
  """Splits as `tree.select`, but never trains what can have no gradient.

  It would only take memory, and shrink under weight decay.

  Raises:
    UserError: a pattern fits nothing, or nothing that has a gradient.
  """
  without_gradient = model.without_gradient(words=words)

  def idle(path: str) -> bool:
    return re.fullmatch(without_gradient, path) is not None

  named = tree.flatten(tree.select(params, patterns)[0])
  problems = [
    pattern
    for pattern in patterns
    if all(map(idle, tree.flatten(tree.select(params, [pattern])[0])))
  ]
  if problems:
    raise UserError(
      listed(
        "model.trainable names parameters that no answer depends on, so they"
        " have no gradient (the image tokenizer, and of answers without a title"
        " the text's head): leave out",
        problems,
      )
    )
  flat = tree.flatten(params)
  # A pattern may cover idle parameters as long as some of it learns.
  learn = {path for path in named if not idle(path)}
  return (
    tree.unflatten({k: v for k, v in flat.items() if k in learn}),
    tree.unflatten({k: v for k, v in flat.items() if k not in learn}),
  )


def reads_as_frozen(model: Generator, trained: PyTree) -> bool:
  """Returns whether training leaves alone what reads the images of prompts."""
  return not any(re.fullmatch(model.reader, x) for x in tree.flatten(trained))


def cast_frozen(model: Generator, params: PyTree) -> PyTree:
  """Casts frozen parameters to the type that every use of them casts to.

  In bfloat16 they are half as large, and nothing that is computed changes.
  """
  # Parameters that are read in float32 are not in the model's casts.
  cast = tree.flatten(model.cast_params(params))
  flat = tree.flatten(params)
  return tree.unflatten({k: cast.get(k, leaf) for k, leaf in flat.items()})
