"""Models and batches small enough to compile in seconds."""

import jax
import numpy as np

from genrec_jax.core.types import Batch, Prompt
from genrec_jax.models import llama, siglip, vqgan
from genrec_jax.models.clip import Clip, Tower
from genrec_jax.models.janus import Janus
from tests import rounding

BOS, PAD, BOI, IMAGE = 0, 1, 2, 3
# Roundings one after the other on the longest way to a code's log-probability
# in `tiny_janus`, see `rounding.bound`: the lengths of the sums over a patch,
# in SigLIP's layer and the aligner, in two layers of the language model with
# their norms, in the head and the softmax.
TERMS = 192 + 84 + 40 + 2 * (24 + 10 + 21 + 60 + 24 + 40) + 5 * 24 + 48 + 16


def tiny_janus(**language) -> Janus:
  """Returns a Janus that reads and draws 16-pixel images of four codes.

  Heads are not a share of the width; every sharded axis divides by 8.
  """
  sizes = {
    "vocab_size": 24,
    "width": 24,
    "mlp_width": 40,
    "num_layers": 2,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_width": 10,
  }
  return Janus(
    language=llama.Llama(**(sizes | language)),
    vision=siglip.Siglip(
      width=16,
      mlp_width=24,
      num_layers=1,
      num_heads=2,
      image_size=16,
      patch_size=8,
    ),
    tokenizer=vqgan.VQGAN(
      embed_dim=4,
      num_embeddings=16,
      latent_channels=32,
      base_channels=32,
      channel_multiplier=(1, 1, 1, 1),
      num_res_blocks=1,
    ),
    bos_id=BOS,
    pad_id=PAD,
    boi_id=BOI,
    image_id=IMAGE,
  )


def tiny_clip() -> Clip:
  """Returns a CLIP of 16-pixel images."""
  return Clip(
    vision=Tower(16, 24, 1, 2),
    text=Tower(16, 24, 1, 2),
    projection_dim=8,
    image_size=16,
    patch_size=8,
    vocab_size=12,
    max_position_embeddings=6,
    eos_token_id=1,
  )


def random_batch(prompts: int, seed: int = 0) -> Batch:
  """Returns windows of two history and two future items of random pixels."""
  rng = np.random.default_rng(seed)
  picture = [BOI, IMAGE, IMAGE, IMAGE, IMAGE, 5]
  row = [BOS, 7, *picture, 8, *picture, 9, BOI]
  ids = np.tile(np.asarray(row, np.int32), (prompts, 1))
  words = (1, 7, 8, 14)
  ids[:, words] = rng.integers(6, 24, (prompts, len(words)))
  title = rng.integers(2, 12, (prompts, 5)).astype(np.int32)
  title[:, -1] = 1

  def pixels():
    return rng.integers(0, 256, (prompts, 2, 16, 16, 3), np.uint8)

  history = pixels()
  return Batch(
    prompt=Prompt(ids=ids, mask=np.ones(ids.shape, bool), images=history),
    history=history,
    history_mask=np.ones((prompts, 2), bool),
    future=pixels(),
    future_mask=np.ones((prompts, 2), bool),
    title_ids=title,
    title_mask=np.ones(title.shape, bool),
  )


def score_bound(logprobs, guidance: float = 1.0, terms: int = TERMS) -> float:
  """Returns how far apart two computations of log-probabilities may be.

  Guidance takes w of one branch less w - 1 of the other, which cancel: of their
  rounding it adds 2 w - 1. Logits are taken to be as large as what they give.
  """
  size = max(1.0, float(np.abs(logprobs).max()))
  return rounding.bound(terms, (2 * guidance - 1) * size)


def amplified(params, factor: float):
  """Scales random parameters up, so that no logit is close to uniform."""
  return jax.tree.map(lambda x: factor * x, params)
