"""CLIP of the world's items and their titles."""

from pathlib import Path
import tempfile

import jax
import jax.numpy as jnp
import optax
import transformers

from genrec_jax.core.types import PyTree
from genrec_jax.data import world
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import write_model
from genrec_jax.hf.rules import to_hf
from genrec_jax.models.clip import Clip, Tower

from .training import epochs, fit, renders, titles, write_json


def train(
  tokens: transformers.PreTrainedTokenizerFast,
  seed: int,
  steps: int,
  batch: int = 192,
) -> tuple[Clip, PyTree]:
  """Trains CLIP on (image, title): the symmetric loss of arXiv 2103.00020."""
  clip = Clip(
    vision=Tower(64, 256, 3, 4),
    text=Tower(64, 256, 2, 4),
    projection_dim=32,
    image_size=world.IMAGE_SIZE,
    patch_size=8,
    vocab_size=len(tokens),
    max_position_embeddings=tokens.model_max_length,
    eos_token_id=tokens.eos_token_id,
  )
  encoded = tokens(
    titles(), padding=True, padding_side="right", return_tensors="np"
  )
  ids, mask = encoded["input_ids"], encoded["attention_mask"].astype(bool)
  key = jax.random.key(seed)

  def loss_fn(params, batch, key):
    images, ids, mask = batch
    pixels = images.astype(jnp.float32) / 255
    # Generated images carry noise and blur: the judge has to bear both.
    noise, level = jax.random.split(key)
    scale = 0.1 * jax.random.uniform(level, (len(images), 1, 1, 1))
    pixels = jnp.clip(
      pixels + scale * jax.random.normal(noise, pixels.shape), 0, 1
    )
    a = clip.embed_images(params, pixels)
    b = clip.embed_texts(params, ids, mask)
    # Clipped at 100, as there.
    logits = jnp.exp(jnp.minimum(params["logit_scale"], 4.6)) * a @ b.T
    truth = jnp.arange(len(images))
    cross = optax.softmax_cross_entropy_with_integer_labels
    loss = (cross(logits, truth) + cross(logits.T, truth)).mean() / 2
    right = jnp.mean(jnp.argmax(logits, -1) == truth)
    return loss, {"accuracy": right}

  params = fit(
    loss_fn,
    clip.init(key),
    epochs((renders(), ids, mask), batch, seed),
    steps,
    lr=2e-3,
    key=key,
    name="clip",
    weight_decay=0.05,
  )
  return clip, params


def write(
  folder: Path,
  clip: Clip,
  params: PyTree,
  tokens: transformers.PreTrainedTokenizerFast,
) -> None:
  """Writes CLIP in HF format."""
  config, preprocessor = hf_clip.config_to_hf(clip)
  # transformers' defaults are ids of OpenAI's vocabulary.
  config["text_config"] |= {
    "bos_token_id": tokens.bos_token_id,
    "pad_token_id": tokens.pad_token_id,
  }
  with tempfile.TemporaryDirectory() as source:
    tokens.save_pretrained(source)
    write_json(Path(source, "preprocessor_config.json"), preprocessor)
    write_model.write(
      folder,
      config,
      to_hf(hf_clip.rules(clip), jax.device_get(params)),
      dtype="bfloat16",
      source=source,
    )
