"""Towers of CLIP, SigLIP and DINOv2 in HF format: fields, checks and rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax.hf.rules import Rule, embedding, linear, norm
from genrec_jax.nn.layers import ACTIVATIONS

# Buffers that old checkpoints saved; transformers ignores them too.
POSITION_IDS = r"(text|vision)_model\.embeddings\.position_ids"

# Fields of a tower by their HF names.
FIELDS: Mapping[str, str] = {
  "hidden_size": "width",
  "intermediate_size": "mlp_width",
  "num_hidden_layers": "num_layers",
  "num_attention_heads": "num_heads",
  "hidden_act": "activation",
  "layer_norm_eps": "norm_epsilon",
}


def fields(section: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a tower's fields by our names."""
  return {ours: section[hf] for hf, ours in FIELDS.items()}


def problems(
  name: str, section: Mapping[str, Any], integers: Sequence[str] = ()
) -> list[str]:
  """Returns what of a tower's section no tower does, a line each.

  Args:
    name: of the section.
    section: of a config; a key left out is no problem, see `mismatches`.
    integers: keys that must be one integer.
  """
  found = [
    f"{name}: {key} is {section[key]!r}; expected one integer"
    for key in integers
    if not isinstance(section.get(key, 0), int)
  ]
  activation = section.get("hidden_act")
  if activation is not None and activation not in ACTIVATIONS:
    found.append(
      f"{name}: hidden_act is {activation!r}; expected one of"
      f" {', '.join(ACTIVATIONS)}"
    )
  width = section.get("hidden_size", 0)
  heads = section.get("num_attention_heads", 1)
  if width % heads:
    found.append(
      f"{name}: hidden_size {width} is not a multiple of num_attention_heads"
      f" {heads}"
    )
  return found


def rules(name: str) -> tuple[Rule, ...]:
  """Returns the rules of positions and layers of a tower of CLIP or SigLIP."""
  # {l}: all layers are one parameter of ours.
  hf, ours = f"{name}.encoder.layers.{{l}}", f"{name}/layers"
  table = [
    *embedding(
      f"{name}.embeddings.position_embedding", f"{name}/position_embedding"
    )
  ]
  for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
    table += linear(f"{hf}.self_attn.{part}", f"{ours}/self_attn/{part}")
  for part in ("fc1", "fc2"):
    table += linear(f"{hf}.mlp.{part}", f"{ours}/mlp/{part}")
  for part in ("layer_norm1", "layer_norm2"):
    table += norm(f"{hf}.{part}", f"{ours}/{part}")
  return tuple(table)
