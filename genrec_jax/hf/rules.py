"""Rule tables: names and layouts of HF tensors <-> parameters, one a model."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError, listed
from genrec_jax.hf.lazy_array import HFParam, HFTensor

# Axes of ours, in the order in which the HF tensor has them.
_TO_HF: dict[str, tuple[int, ...] | None] = {
  "same": None,
  "linear": (1, 0),  # torch [out, in], ours [in, out]
  "conv": (3, 2, 0, 1),  # torch OIHW, ours HWIO
  "conv3d": (4, 3, 0, 1, 2),  # torch OIDHW, ours DHWIO
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """Rule of one parameter: its HF name, our path, how the layouts differ.

  `{l}` in `hf` is the number of a layer: the tensors of all layers are one
  parameter of ours, stacked along a new first axis.
  """

  hf: str
  ours: str
  kind: str  # of `_TO_HF`

  @property
  def stacked(self) -> bool:
    """Whether the parameter's first axis counts layers."""
    return "{l}" in self.hf

  @property
  def axes(self) -> tuple[int, ...] | None:
    """Axes of ours in the tensor's order; None: the same."""
    return _TO_HF[self.kind]

  def names(self, layers: int) -> list[str]:
    """Returns the HF names, one per layer or just one."""
    if not self.stacked:
      return [self.hf]
    return [self.hf.replace("{l}", str(i)) for i in range(layers)]

  def layout(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Returns how many tensors a parameter of a shape is, and their shape."""
    layers, shape = (shape[0], shape[1:]) if self.stacked else (1, shape)
    axes = self.axes
    return layers, tuple(shape[a] for a in axes) if axes else tuple(shape)


def linear(hf: str, ours: str, bias: bool = True) -> tuple[Rule, ...]:
  """Returns the rules of a dense layer."""
  # torch calls every first tensor of a layer its weight.
  kernel = Rule(f"{hf}.weight", f"{ours}/kernel", "linear")
  return (kernel, Rule(f"{hf}.bias", f"{ours}/bias", "same"))[: 1 + bias]


def conv(hf: str, ours: str, bias: bool = True) -> tuple[Rule, ...]:
  """Returns the rules of a 2-D convolution."""
  kernel = Rule(f"{hf}.weight", f"{ours}/kernel", "conv")
  return (kernel, Rule(f"{hf}.bias", f"{ours}/bias", "same"))[: 1 + bias]


def conv3d(hf: str, ours: str) -> tuple[Rule, ...]:
  """Returns the rules of a 3-D convolution."""
  kernel = Rule(f"{hf}.weight", f"{ours}/kernel", "conv3d")
  return (kernel, Rule(f"{hf}.bias", f"{ours}/bias", "same"))


def norm(hf: str, ours: str, bias: bool = True) -> tuple[Rule, ...]:
  """Returns the rules of a layer, group or RMS norm."""
  scale = Rule(f"{hf}.weight", f"{ours}/scale", "same")
  return (scale, Rule(f"{hf}.bias", f"{ours}/bias", "same"))[: 1 + bias]


def embedding(hf: str, ours: str) -> tuple[Rule, ...]:
  """Returns the rule of an embedding table."""
  return (Rule(f"{hf}.weight", f"{ours}/embedding", "same"),)


def prefixed(
  rules: Iterable[Rule], hf_prefix: str, our_prefix: str
) -> tuple[Rule, ...]:
  """Returns the rules of a model that is part of another, 'a.' and 'a/'."""
  return tuple(
    Rule(hf_prefix + rule.hf, our_prefix + rule.ours, rule.kind)
    for rule in rules
  )


def to_params(
  rules: Sequence[Rule],
  tensors: Mapping[str, Any],
  expected: Mapping[str, Any],
  ignore: Sequence[str] = (),
) -> tree.Tree:
  """Finds each parameter's HF tensors; checks all of them, reads none.

  Args:
    rules: the model's table.
    tensors: HF name -> array, or anything with a shape, a dtype and slices
      that are arrays.
    expected: the model's parameters, real or abstract, as from
      `jax.eval_shape(model.init, key)`.
    ignore: regular expressions of the whole HF names of tensors that hold no
      parameter, such as buffers.

  Returns:
    A nested dict of `HFParam`; see `sharded_read.read`.

  Raises:
    UserError: names every missing, unexpected or misshapen tensor.
    ValueError: the table does not fit the model.
  """
  leaves = _leaves(rules, expected)
  # All problems before the first error: a checkpoint takes long to get again.
  problems, used = [], set()
  for rule, leaf in zip(rules, leaves, strict=True):
    layers, shape = rule.layout(leaf.shape)
    for name in rule.names(layers):
      used.add(name)
      tensor = tensors.get(name)  # its shape and type are known, no more
      if tensor is None:
        problems.append((name, f"missing, expected {list(shape)}"))
      elif tuple(tensor.shape) != shape:
        found = list(tensor.shape)
        problems.append((name, f"expected {list(shape)}, found {found}"))
      elif not _is_float(tensor.dtype):  # integers would be cast silently
        problems.append((name, f"expected a float, found {tensor.dtype}"))
  for name in tensors:
    if name not in used and not any(re.fullmatch(r, name) for r in ignore):
      problems.append((name, f"unexpected, {list(tensors[name].shape)}"))
  if problems:
    lines = _grouped(problems)
    raise UserError(
      listed(
        "the checkpoint's tensors do not fit the model that its config"
        " describes; use the config.json that belongs to them:",
        lines,
        limit=len(lines),  # all of them: they are grouped
      )
    )
  flat = {}
  # Everything fits: a second pass that cannot fail.
  for rule, leaf in zip(rules, leaves, strict=True):
    names = tuple(rule.names(rule.layout(leaf.shape)[0]))
    flat[rule.ours] = HFParam(
      names,
      tuple(tensors[name] for name in names),
      tuple(leaf.shape),
      rule.stacked,
      rule.axes,
    )
  return tree.unflatten(flat)


def to_hf(
  rules: Sequence[Rule], params: Mapping[str, Any]
) -> dict[str, HFTensor]:
  """Returns HF name -> tensor, fetched one by one as they are asked for.

  Raises:
    ValueError: the parameters are not exactly those of the table.
  """
  tensors = {}
  for rule, leaf in zip(rules, _leaves(rules, params), strict=True):
    layers, shape = rule.layout(leaf.shape)
    for i, name in enumerate(rule.names(layers)):
      index = i if rule.stacked else ...  # one layer, or the whole parameter
      dtype = np.dtype(leaf.dtype)
      tensors[name] = HFTensor(leaf, index, rule.axes, shape, dtype)
  return tensors


def _leaves(rules: Sequence[Rule], params: Mapping[str, Any]) -> list[Any]:
  """Returns the leaf of each rule; the two must match one to one."""
  # A mismatch here is a fault of the table, not of a checkpoint.
  flat = tree.flatten(params)
  counts = Counter(rule.ours for rule in rules)
  problems = [f"{path}: {n} rules" for path, n in counts.items() if n > 1]
  problems += [f"{path}: no parameter" for path in counts if path not in flat]
  problems += [f"{path}: no rule" for path in flat if path not in counts]
  names = Counter(rule.hf for rule in rules)
  problems += [f"{name}: {n} rules" for name, n in names.items() if n > 1]
  if problems:
    raise ValueError(listed("rules and parameters differ:", problems))
  return [flat[rule.ours] for rule in rules]


def _is_float(dtype: Any) -> bool:
  # ml_dtypes' finfo knows numpy's floats and its own, and refuses the rest.
  try:
    ml_dtypes.finfo(dtype)
  except ValueError:
    return False
  return True


def _grouped(problems: Sequence[tuple[str, str]]) -> list[str]:
  """Returns one line per problem; the same one in many layers is one line."""
  groups: dict[tuple[str, str], list[str]] = {}
  for name, message in problems:
    # 'layers.3.mlp' and 'layers.4.mlp' both become 'layers.*.mlp'.
    numberless = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
    groups.setdefault((numberless, message), []).append(name)
  return [
    f"{names[0]}: {message}"
    if len(names) == 1
    else f"{pattern} ({len(names)} tensors): {message}"
    for (pattern, message), names in groups.items()
  ]
