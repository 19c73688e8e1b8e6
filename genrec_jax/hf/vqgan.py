"""The image tokenizer's part of an HF Janus checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genrec_jax.core.errors import UserError
from genrec_jax.hf.rules import Rule, conv, norm
from genrec_jax.models.image_tokenizer import ImageTokenizer
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
  # Named alike there and here.
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
  levels = range(len(vqgan.channel_multiplier))
  return (
    *encoder(vqgan, "encoder.down", _numbered),
    *_ends("encoder"),
    *conv("quant_conv", "quant_conv"),
    Rule("quantize.embedding.weight", "quantizer/embedding", "same"),
    *conv("post_quant_conv", "post_quant_conv"),
    *decoder(vqgan, [f"decoder.up.{i}" for i in levels], _numbered),
    *_ends("decoder"),
  )


def encoder(
  tokenizer: ImageTokenizer, hf: str, attention: Attention
) -> list[Rule]:
  """Returns the table of an encoder's levels, the finest first.

  Args:
    tokenizer: whose table it is.
    hf: name of the list of levels.
    attention: of the coarsest level.
  """
  widths = _widths(tokenizer)
  last = len(widths) - 1
  table = [*conv("encoder.conv_in", "encoder/conv_in")]
  before = tokenizer.base_channels  # what a level reads
  for i, width in enumerate(widths):
    level = (f"{hf}.{i}", f"encoder/down_{i}")
    own = attention if i == last else None  # and no halving behind it
    table += blocks(*level, before, width, tokenizer.num_res_blocks, own)
    if i != last:
      table += conv(level[0] + ".downsample.conv", level[1] + "/downsample")
    before = width
  return table


def decoder(
  tokenizer: ImageTokenizer,
  hf: Sequence[str],
  attention: Attention,
  norm: Norm = norm,
) -> list[Rule]:
  """Returns the table of a decoder's levels, the coarsest first.

  Args:
    tokenizer: whose table it is.
    hf: names of the levels.
    attention: of the coarsest level.
    norm: of all norms but the attention's.
  """
  widths = _widths(tokenizer)[::-1]
  last = len(widths) - 1
  table = [*conv("decoder.conv_in", "decoder/conv_in")]
  before = widths[0]
  for i, width in enumerate(widths):
    level = (hf[i], f"decoder/up_{i}")
    own = attention if i == 0 else None
    count = tokenizer.num_res_blocks + 1  # a decoder has one more a level
    table += blocks(*level, before, width, count, own, norm)
    if i != last:
      table += conv(level[0] + ".upsample.conv", level[1] + "/upsample")
    before = width
  return table


def ends(
  part: str, middle: str, attention: list[Rule], norm: Norm = norm
) -> list[Rule]:
  """Returns the table of what an encoder or decoder has beside its levels.

  Args:
    part: 'encoder' or 'decoder'.
    middle: name of the blocks at the coarsest resolution.
    attention: table of the one between them.
    norm: of all other norms.
  """
  hf, ours = f"{part}.{middle}", f"{part}/mid"
  return [
    *resnet(f"{hf}.block_1", f"{ours}/block_1", norm=norm),
    *attention,
    *resnet(f"{hf}.block_2", f"{ours}/block_2", norm=norm),
    *norm(f"{part}.norm_out", f"{part}/norm_out"),
    *conv(f"{part}.conv_out", f"{part}/conv_out"),
  ]


def _ends(part: str) -> list[Rule]:
  return ends(
    part, "mid", _attention(f"{part}.mid.attn_1", f"{part}/mid/attn_1")
  )


def _widths(tokenizer: ImageTokenizer) -> list[int]:
  return [tokenizer.base_channels * m for m in tokenizer.channel_multiplier]


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
  for i in (1, 2):  # theirs count from 1, and so do ours
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
