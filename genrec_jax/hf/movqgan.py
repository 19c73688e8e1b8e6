"""The image tokenizer's part of an HF Emu3 checkpoint."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf import defaults
from genrec_jax.hf.rules import Rule, conv, conv3d, linear, norm
from genrec_jax.hf.vqgan import Attention, Norm, decoder, encoder, ends
from genrec_jax.models.movqgan import MoVQGAN

# Whole names of a tensor that counts the steps of a batch norm's training: an
# integer that nothing reads, and that transformers asks for.
COUNTERS = r".*\.norm\d\.num_batches_tracked"


def problems(config: Mapping[str, Any]) -> list[str]:
  """Returns what of a `vq_config` section the tokenizer does not do."""
  multiplier = tuple(config["channel_multiplier"])
  base, latent = config["base_channels"], config["latent_channels"]
  found = defaults.mismatches(
    "vq_config",
    {**config, "attn_resolutions": tuple(config["attn_resolutions"] or ())},
    {
      "double_latent": False,  # of twice the channels `quantize` knows nothing
      "num_attention_heads": 1,
      "attn_resolutions": (len(multiplier) - 1,),  # the coarsest alone
      "hidden_size": base * multiplier[-1],  # its width
      "embed_dim": latent,  # one convolution reads both
    },
  )
  factor = config["temporal_downsample_factor"]
  if factor < 1 or factor & (factor - 1):
    found.append(
      f"vq_config: temporal_downsample_factor is {factor}; expected a power of"
      " 2"
    )
  if base % 32:  # the number of norm groups, which is fixed
    found.append(
      f"vq_config: base_channels is {base}; expected a multiple of 32"
    )
  return found


def config_from_hf(config: Mapping[str, Any]) -> MoVQGAN:
  """Returns the model of a whole `vq_config` section.

  Raises:
    UserError: an architecture that this code does not reproduce.
  """
  wrong = problems(config)
  if wrong:
    raise UserError("; ".join(wrong))
  names = (
    "codebook_size",
    "embed_dim",
    "latent_channels",
    "in_channels",
    "out_channels",
    "temporal_downsample_factor",
    "base_channels",
    "num_res_blocks",
  )
  return MoVQGAN(
    channel_multiplier=tuple(config["channel_multiplier"]),
    **{name: config[name] for name in names},
  )


def rules(movqgan: MoVQGAN) -> tuple[Rule, ...]:
  """Returns the table of `Emu3VQVAE`, names relative to it."""
  levels = range(len(movqgan.channel_multiplier))
  return (
    *encoder(movqgan, "encoder.down_block.down", _numbered(norm)),
    *_ends("encoder", norm),
    *_frames(movqgan, "encoder"),
    *conv3d("quant_conv.conv", "quant_conv"),
    Rule("quantize.embedding.weight", "quantizer/embedding", "same"),
    *conv3d("post_quant_conv.conv", "post_quant_conv"),
    *_frames(movqgan, "decoder"),
    *decoder(
      movqgan,
      # They number levels as the encoder does, we as we run them.
      [f"decoder.up_block.up.{i}" for i in reversed(levels)],
      _numbered(_spatial),
      _spatial,
    ),
    *_ends("decoder", _spatial),
  )


def _ends(part: str, norm: Norm) -> list[Rule]:
  hf, ours = f"{part}.middle_block", f"{part}/mid/attn_1"
  between = _attention(f"{hf}.attn_1", f"{hf}.attn_norm", ours, norm)
  return ends(part, "middle_block", between, norm)


def _spatial(hf: str, ours: str) -> tuple[Rule, ...]:
  """Returns the rules of a spatial norm."""
  return (
    *norm(f"{hf}.norm_layer", f"{ours}/norm_layer"),
    *conv(f"{hf}.conv_y", f"{ours}/conv_y"),
    *conv(f"{hf}.conv_b", f"{ours}/conv_b"),
  )


def _numbered(norm: Norm) -> Attention:
  """Returns what gives a level's attentions, with norms of a kind."""
  return lambda hf, ours, i: _attention(
    f"{hf}.attn.{i}", f"{hf}.attn_norms.{i}", f"{ours}/attn_{i}", norm
  )


def _attention(hf: str, hf_norm: str, ours: str, norm: Norm) -> list[Rule]:
  table = [*norm(hf_norm, f"{ours}/norm")]
  for name in ("q", "k", "v"):
    table += linear(f"{hf}.{name}_proj", f"{ours}/{name}")
  return [*table, *linear(f"{hf}.out_proj", f"{ours}/proj_out")]


def _frames(movqgan: MoVQGAN, part: str) -> list[Rule]:
  """Returns the table of the 3-D convolutions of the encoder or decoder."""
  table: list[Rule] = []
  for i in range(movqgan.temporal_downsample_factor.bit_length() - 1):
    table += conv3d(
      f"{part}.time_conv.{i}.conv.conv", f"frame_{part}/time_conv_{i}"
    )
  for i in range(movqgan.num_res_blocks):
    for j in (1, 2):
      hf = f"{part}.time_res_stack.{i}"
      ours = f"frame_{part}/time_res_stack_{i}"
      table += conv3d(f"{hf}.conv{j}.conv", f"{ours}/conv{j}")
      table += _batch_norm(f"{hf}.norm{j}", f"{ours}/norm{j}")
  return table


def _batch_norm(hf: str, ours: str) -> tuple[Rule, ...]:
  statistics = (
    Rule(f"{hf}.running_{name}", f"{ours}/{name}", "same")
    for name in ("mean", "var")
  )
  return (*norm(hf, ours), *statistics)
