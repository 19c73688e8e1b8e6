"""The language model's part of an HF checkpoint, of any family."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.hf import defaults
from genrec_jax.hf.rules import Rule, embedding, linear, norm
from genrec_jax.models.llama import Llama


def from_config(text: Mapping[str, Any], *, tied: bool) -> Llama:
  """Returns the model of a whole text section, computing in float32.

  Args:
    text: with all of its keys; see `defaults.fill`.
    tied: whether the head is the embedding.
  """
  heads = text["num_attention_heads"]
  return Llama(
    vocab_size=text["vocab_size"],
    width=text["hidden_size"],
    mlp_width=text["intermediate_size"],
    num_layers=text["num_hidden_layers"],
    num_heads=heads,
    num_kv_heads=text["num_key_value_heads"],
    head_width=text.get("head_dim") or text["hidden_size"] // heads,
    rope_base=float(text["rope_parameters"]["rope_theta"]),
    norm_epsilon=text["rms_norm_eps"],
    tied=tied,
  )


def to_config(language: Llama) -> dict[str, Any]:
  """Returns the keys of a text section that `from_config` reads, but `tied`."""
  return {
    "vocab_size": language.vocab_size,
    "hidden_size": language.width,
    "intermediate_size": language.mlp_width,
    "num_hidden_layers": language.num_layers,
    "num_attention_heads": language.num_heads,
    "num_key_value_heads": language.num_kv_heads,
    "head_dim": language.head_width,
    "rms_norm_eps": language.norm_epsilon,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": language.rope_base,
    },
  }


def problems(section: str, text: Mapping[str, Any]) -> list[str]:
  """Returns what of a text section the model cannot reproduce.

  Args:
    section: its name.
    text: a key left out is no problem.
  """
  found = defaults.mismatches(
    section,
    text,
    {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
  )
  # Others, such as llama3's, scale the angles of long sequences.
  rope = (text.get("rope_parameters") or {}).get("rope_type", "default")
  if rope != "default":
    found.append(f"{section}: rope_type is {rope!r}; expected 'default'")
  return found


def rules() -> tuple[Rule, ...]:
  """Returns the table of `LlamaModel`, names relative to it; without a head."""
  hf, ours = "layers.{l}", "layers"  # stacked, see `Rule`
  table = [*embedding("embed_tokens", "embed_tokens")]
  for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
    table += linear(
      f"{hf}.self_attn.{part}", f"{ours}/self_attn/{part}", bias=False
    )
  for part in ("gate_proj", "up_proj", "down_proj"):
    table += linear(f"{hf}.mlp.{part}", f"{ours}/mlp/{part}", bias=False)
  for part in ("input_layernorm", "post_attention_layernorm"):
    table += norm(f"{hf}.{part}", f"{ours}/{part}", bias=False)
  return (*table, *norm("norm", "norm", bias=False))
