"""Parameters of a model: shapes, tensors of its folder, places on devices."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from genrec_jax.core.errors import UserError
from genrec_jax.core.types import PyTree
from genrec_jax.hf import forms
from genrec_jax.hf.rules import Rule, to_params


class Model(Protocol):
  """What has parameters."""

  @property
  def init(self) -> Callable[[jax.Array], PyTree]:
    """Maps a key to random float32 parameters."""


def shapes_of(model: Model) -> PyTree:
  """Returns the parameters' shapes, float32."""
  return jax.eval_shape(model.init, jax.random.key(0))


def find(
  folder: Path,
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  shapes: PyTree,
  ignore: Sequence[str],
) -> PyTree:
  """Returns each parameter's tensors, see `rules.to_params`; reads none.

  Raises:
    UserError: names the folder and every tensor that does not fit.
  """
  # Before the shapes are compared: those of quantized tensors differ as well.
  problem = forms.quantized(tensors)
  if problem:
    raise UserError(f"{folder} {problem}")
  try:
    return to_params(rules, tensors, shapes, ignore)
  except UserError as error:
    raise UserError(f"{folder}: {error}") from None


def everywhere(
  shapes: PyTree, place: jax.sharding.Sharding | None = None
) -> PyTree:
  """Returns one sharding for all parameters; on one device if None."""
  place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(lambda _: place, shapes)
