"""The image tokenizer's part of an HF Janus checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf.rules import Rule, conv, norm
from genrec_jax.models.vqgan import VQGAN

# Maps names of theirs and ours to the rules of a norm.
Norm = Callable[[str, str], tuple[Rule, ...]]
# Maps names of a level, and a block's number, to the rules of its attention.
Attention = Callable[[str, str, int], list[Rule]]


def config_from_hf(config: Mapping[str, Any], **overrides: Any) -> VQGAN:
  """Returns the model of a `vq_config` section.

  Args:
    config: the section; keys that it leaves out have HF's defaults.
    **overrides: fields that HF configs do not have, such as `dtype`.

  Raises:
    UserError: a size that the architecture does not allow.
  """
  names = (
    "embed_dim",
    "num_embeddings",
    "latent_channels",
    "in_channels",
    "out_channels",
    "base_channels",
    "num_res_blocks",
  )
  fields = {name: config[name] for name in names if name in config}
  if "channel_multiplier" in config:
    fields["channel_multiplier"] = tuple(config["channel_multiplier"])
  vqgan = VQGAN(**fields, **overrides)
  problems = []
  # Twice the latent channels, of which `quantize` knows nothing.
  if config.get("double_latent", False):
    problems.append("double_latent is true; only false is supported")
  if vqgan.base_channels % 32:  # the number of norm groups, which is fixed
    problems.append(
      f"base_channels is {vqgan.base_channels}; expected a multiple of 32"
    )
  if problems:
    raise UserError("vq_config: " + "; ".join(problems))
  return vqgan


def rules(vqgan: VQGAN) -> tuple[Rule, ...]:
  """Returns the table of `JanusVQVAE`, names relative to it."""
  return (
    *_encoder(vqgan),
    *conv("quant_conv", "quant_conv"),
    Rule("quantize.embedding.weight", "quantizer/embedding", "same"),
    *conv("post_quant_conv", "post_quant_conv"),
    *_decoder(vqgan),
  )


def _encoder(vqgan: VQGAN) -> list[Rule]:
  widths = [vqgan.base_channels * m for m in vqgan.channel_multiplier]
  last = len(widths) - 1  # the coarsest level: it has attention, no halving
  table = [*conv("encoder.conv_in", "encoder/conv_in")]
  before = vqgan.base_channels
  for i, width in enumerate(widths):
    level = (f"encoder.down.{i}", f"encoder/down_{i}")
    attention = _numbered if i == last else None
    table += blocks(*level, before, width, vqgan.num_res_blocks, attention)
    if i != last:
      table += conv(level[0] + ".downsample.conv", level[1] + "/downsample")
    before = width
  return table + _ends("encoder")


def _decoder(vqgan: VQGAN) -> list[Rule]:
  # Coarsest first: level 0 has attention, the last no doubling.
  widths = [vqgan.base_channels * m for m in reversed(vqgan.channel_multiplier)]
  last = len(widths) - 1
  table = [*conv("decoder.conv_in", "decoder/conv_in")]
  before = widths[0]
  for i, width in enumerate(widths):
    level = (f"decoder.up.{i}", f"decoder/up_{i}")
    attention = _numbered if i == 0 else None
    table += blocks(*level, before, width, vqgan.num_res_blocks + 1, attention)
    if i != last:
      table += conv(level[0] + ".upsample.conv", level[1] + "/upsample")
    before = width
  return table + _ends("decoder")


def _ends(part: str) -> list[Rule]:
  hf, ours = f"{part}.mid", f"{part}/mid"
  return [
    *resnet(f"{hf}.block_1", f"{ours}/block_1"),
    *_attention(f"{hf}.attn_1", f"{ours}/attn_1"),
    *resnet(f"{hf}.block_2", f"{ours}/block_2"),
    *norm(f"{part}.norm_out", f"{part}/norm_out"),
    *conv(f"{part}.conv_out", f"{part}/conv_out"),
  ]


def blocks(
  hf: str,
  ours: str,
  before: int,
  width: int,
  count: int,
  attention: Attention | None = None,
  norm: Norm = norm,
) -> list[Rule]:
  """Returns the table of a level's residual blocks and attentions.

  Args:
    hf: name of the level.
    ours: the same.
    before: channels that the first block reads.
    width: channels of all others.
    count: how many blocks.
    attention: of those behind each block; None: there are none.
    norm: of the norms.
  """
  table: list[Rule] = []
  for i in range(count):
    # Only the first block of a level changes the number of channels.
    shortcut = i == 0 and before != width
    table += resnet(f"{hf}.block.{i}", f"{ours}/block_{i}", shortcut, norm)
    if attention:
      table += attention(hf, ours, i)
  return table


def resnet(
  hf: str, ours: str, shortcut: bool = False, norm: Norm = norm
) -> list[Rule]:
  """Returns the table of a residual block; see `blocks`."""
  table: list[Rule] = []
  for i in (1, 2):
    table += norm(f"{hf}.norm{i}", f"{ours}/norm{i}")
    table += conv(f"{hf}.conv{i}", f"{ours}/conv{i}")
  if shortcut:
    table += conv(f"{hf}.nin_shortcut", f"{ours}/nin_shortcut")
  return table


def _numbered(hf: str, ours: str, i: int) -> list[Rule]:
  return _attention(f"{hf}.attn.{i}", f"{ours}/attn_{i}")


def _attention(hf: str, ours: str) -> list[Rule]:
  table = [*norm(f"{hf}.norm", f"{ours}/norm")]
  for name in ("q", "k", "v", "proj_out"):
    table += conv(f"{hf}.{name}", f"{ours}/{name}")
  return table
