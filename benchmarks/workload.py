"""Models and prompts of the benchmarks, the same for every side.

Random weights and pixels serve as well as real ones: all shapes are fixed, and
no step takes another path for other values.

Letters: P prompts, T prompt tokens, N history images, F future images, G
samples, I codes per image, h and w pixels.
"""

import dataclasses
from typing import Any

import numpy as np

# Token ids of genrec_jax.testing, which would bring JAX into torch's processes.
BOS, _, _, IMAGE, BOI, EOI = range(6)
HISTORY = 5  # images of a prompt
FUTURE = 3  # images that the reward compares with
SAMPLES = 8  # G
GUIDANCE = 5.0  # Janus-Pro's default
TITLE = 8  # tokens before each image
INSTRUCTION = 20  # tokens after the last
TEXT = 32  # tokens of a prompt of text
WINDOWS = 2  # of a supervised step
TASKS = ("sample_1", "sample_8", "rl_conditional", "rl_guided", "sft")

# Of both sides' training, whose steps the tests compare.
LEARNING_RATE = 1e-6
BETAS = (0.9, 0.95)
GRAD_NORM = 1.0
CLIP = (0.2, 0.28)  # of the ratio, below and above 1
KL_WEIGHT = 0.01
WEIGHTS = {"text": 0.5, "history": 0.5, "future": 1.0, "copy": 1.0}
COPY_THRESHOLD = 0.95
GENERATES = r"language/|image_head/"  # what RL trains
READS = r"aligner/"  # what SFT trains as well


@dataclasses.dataclass(frozen=True)
class Size:
  """A Janus and a CLIP of transformers, in the words of their configs."""

  text: dict[str, Any]  # the language model
  vision: dict[str, Any]  # the tower that reads images
  vq: dict[str, Any]  # the image tokenizer
  clip: dict[str, Any]

  @property
  def side(self) -> int:
    """Pixels."""
    return self.vision["image_size"]

  @property
  def codes(self) -> int:
    """I."""
    # Codes of a generated image are as many as the tokens that one is read as.
    return (self.side // self.vision["patch_size"]) ** 2


def small(
  width,
  mlp_width,
  depth,
  head_width,
  vision,
  vision_depth,
  clip,
  *,
  codes=144,
  **vq,
) -> Size:
  """Returns a small Janus-Pro: the same parts, fewer and narrower.

  Twelve codes a side make a prompt of five images about 800 tokens and eight
  answers 1,152, the proportions of Janus-Pro's 2,900 and 4,608.
  """
  side = round(codes**0.5) * 16  # pixels
  tower = {"num_attention_heads": clip // 64, "hidden_size": clip}
  tower |= {"intermediate_size": 4 * clip, "num_hidden_layers": 6}
  return Size(
    text={
      "vocab_size": 4096,  # of text, whose logits no step computes
      "hidden_size": width,
      "intermediate_size": mlp_width,
      "num_hidden_layers": depth,
      "num_attention_heads": width // head_width,
      "num_key_value_heads": width // head_width,  # as Janus-Pro: not grouped
      "head_dim": head_width,
      "max_position_embeddings": 4096,
    },
    vision={
      "hidden_size": vision,
      "num_hidden_layers": vision_depth,
      "num_attention_heads": vision // 64,
      "image_size": side,
      "patch_size": 16,
      "mlp_ratio": 4.0,
      "projection_dim": width,
      "depth": 2,
      "num_image_tokens": codes,
    },
    vq={
      "embed_dim": 8,
      "projection_dim": width,
      "image_token_embed_dim": width,
      "num_hidden_layers": 2,
      "latent_channels": 256,
      "channel_multiplier": [1, 1, 2, 2, 4],  # five levels: 16 pixels a code
      "num_res_blocks": 1,
      **vq,
    },
    clip={
      "projection_dim": clip,
      "vision_config": tower | {"image_size": 224, "patch_size": 32},
      "text_config": tower
      | {
        "vocab_size": 1000,
        "max_position_embeddings": 16,  # more than TITLE
        "bos_token_id": 998,
        "eos_token_id": 999,
        "pad_token_id": 0,
      },
    },
  )


_TOWER = {
  "hidden_size": 1024,
  "intermediate_size": 4096,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
}
SIZES = {
  # For trials of the commands alone.
  "tiny": small(
    64, 96, 2, 32, 64, 1, 64, codes=4, base_channels=32, num_embeddings=64
  ),
  # Parameters of the language model's layers: 3.9e7 and 1.93e8. The first runs
  # in minutes on two cores; the second shows how figures change with size.
  "40m": small(
    512, 1408, 12, 64, 256, 6, 256, base_channels=32, num_embeddings=8192
  ),
  "200m": small(
    1024, 2816, 15, 128, 512, 8, 512, base_channels=64, num_embeddings=16384
  ),
  # Janus-Pro-1B as published, and the CLIP ViT-L/14 of 224 pixels.
  "1b": Size(
    text={
      "vocab_size": 102400,
      "hidden_size": 2048,
      "intermediate_size": 5632,
      "num_hidden_layers": 24,
      "num_attention_heads": 16,
      "num_key_value_heads": 16,
      "head_dim": 128,
    },
    vision={
      "hidden_size": 1024,
      "num_hidden_layers": 24,
      "num_attention_heads": 16,
      "mlp_ratio": 4.0,
      "image_size": 384,
      "patch_size": 16,
    },
    vq={
      "embed_dim": 8,
      "num_embeddings": 16384,
      "latent_channels": 256,
      "base_channels": 128,
      "channel_multiplier": [1, 1, 2, 2, 4],
      "num_res_blocks": 2,
    },
    clip={
      "projection_dim": 768,
      "vision_config": _TOWER | {"image_size": 224, "patch_size": 14},
      "text_config": _TOWER
      | {"hidden_size": 768, "intermediate_size": 3072}
      | {"num_attention_heads": 12, "num_hidden_layers": 12},
    },
  ),
}


def save(folder: str, size: str | Size) -> None:
  """Writes `generator` and `clip` in HF format, with random weights."""
  # Here, not at the top: the JAX side imports this module and needs no torch.
  import torch
  import transformers
  from transformers.models.clip.image_processing_pil_clip import (
    CLIPImageProcessorPil,
  )

  from genrec_jax.testing import janus_tokenizer
  from tests.hf import random_janus

  transformers.utils.logging.disable_progress_bar()
  sizes = SIZES[size] if isinstance(size, str) else size
  if size == "1b":
    generator = random_janus.janus_pro_1b()
  else:
    generator = random_janus.model(
      text=sizes.text, vision=sizes.vision, vq=sizes.vq
    )
    # As after training: samples differ, and codes matter for the next ones.
    generator.model.generation_aligner.hidden_layers[0].weight.data *= 4
  generator.save_pretrained(f"{folder}/generator")
  random_janus.save_settings(f"{folder}/generator", sizes.side)
  torch.manual_seed(1)  # the same CLIP in every run
  clip = transformers.CLIPModel(transformers.CLIPConfig(**sizes.clip))
  clip.save_pretrained(f"{folder}/clip")
  janus_tokenizer().save_pretrained(f"{folder}/clip")
  side = sizes.clip["vision_config"]["image_size"]
  CLIPImageProcessorPil(
    size={"shortest_edge": side}, crop_size={"height": side, "width": side}
  ).save_pretrained(f"{folder}/clip")


def batch_of(task: str, size: Size) -> dict[str, Any]:
  """Returns the prompts of one of `TASKS`."""
  if task.startswith("sample_"):
    return text_batch(size, int(task.split("_")[1]))
  return history_batch(size, WINDOWS if task == "sft" else 1)


def history_batch(
  size: Size, prompts: int, images: int = HISTORY
) -> dict[str, Any]:
  """Returns windows of `images` history images as numpy arrays.

  Fields are those of `core.types.Batch` and `Prompt`; all rows are of equal
  length, so no token is padding.
  """
  rng = np.random.default_rng(0)

  def words(count):
    # Above the special ids, which a side would treat as images or padding.
    return rng.integers(10, 250, count).tolist()

  rows = []
  for _ in range(prompts):
    row = [BOS]
    for _ in range(images):
      row += [*words(TITLE), BOI, *[IMAGE] * size.codes, EOI]
    rows.append([*row, *words(INSTRUCTION), BOI])  # T
  return _batch(rng, rows, size, images)


def text_batch(size: Size, prompts: int) -> dict[str, Any]:
  """Returns the same for prompts of text alone."""
  rng = np.random.default_rng(0)
  rows = [
    [BOS, *rng.integers(10, 250, TEXT - 2).tolist(), BOI]
    for _ in range(prompts)
  ]
  return _batch(rng, rows, size, 0)


def _batch(rng, rows, size: Size, images: int) -> dict[str, Any]:
  ids = np.asarray(rows, np.int32)  # [P, T]
  count = len(rows)  # P

  def noise(number):  # [P, number, h, w, 3]
    shape = (count, number, size.side, size.side, 3)
    return rng.integers(0, 256, shape, np.uint8)

  text = size.clip["text_config"]
  end = text.get("eos_token_id", 49407)
  title = rng.integers(1, 900, (count, TITLE)).astype(np.int32)
  title[:, -1] = end  # CLIP takes its embedding of a text at the end token
  return {
    "ids": ids,
    "mask": np.ones(ids.shape, bool),  # [P, T]
    "images": noise(images),  # [P, N, h, w, 3]
    "history_mask": np.ones((count, images), bool),  # [P, N]
    "future": noise(FUTURE),  # [P, F, h, w, 3]
    "future_mask": np.ones((count, FUTURE), bool),  # [P, F]
    "title_ids": title,  # [P, TITLE]
    "title_mask": np.ones(title.shape, bool),  # [P, TITLE]
  }
