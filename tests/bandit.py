"""A generator and a CLIP so small that every value is done by hand.

The logits of a code depend on its prompt and its place alone, and each of them
is a parameter; compiling takes no time.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.core.types import Batch, Prefix, Prompt
from genrec_jax.models.api import Vocabulary


@dataclasses.dataclass(frozen=True)
class Bandit:
  """A generator: prompts are one token, row 0 of the table is unconditional."""

  image_tokens: int = 3
  image_size: int = 1
  codebook_size: int = 8
  reader: str = "nothing"

  @property
  def image_vocabulary(self):
    return Vocabulary(
      size=self.codebook_size,
      embed=None,
      logits=lambda params, hidden: hidden,
      decode_params=lambda params: params,
    )

  def init(self, key, rows):
    shape = (rows, self.image_tokens * self.codebook_size)
    return {"table": {"embedding": jax.random.normal(key, shape)}}

  def unconditional(self, prompt):
    ids = jnp.zeros_like(prompt.ids)
    return prompt.replace(ids=ids, images=prompt.images[:, :0])

  def read_images(self, params, images):
    return images

  def embed(self, params, prompt):
    return params["table"]["embedding"][prompt.ids]  # [P, 1, I C]

  def _logits(self, embeds):
    return embeds.reshape(-1, self.image_tokens, self.codebook_size)

  def decode_subtree(self, params, *, words=False):
    return params

  def prefill(self, params, embeds, mask):
    logits = self._logits(embeds)
    return Prefix(keys=logits, values=(), mask=mask, hidden=logits[:, 0])

  def shares_unconditional(self, prompts, length):
    return False

  def decode_prefix(self, prefix, unconditional=None, *, narrow=False):
    return prefix

  def cache_tokens(self, codes):
    return codes

  def init_cache(self, prefix, num_samples, length):
    return ()

  def decode_step(
    self, vocabulary, params, prefix, cache, codes, index, before=None, **_
  ):
    logits = prefix.keys[:, index + 1][:, None]
    return jnp.broadcast_to(logits, (*codes.shape, logits.shape[-1])), cache

  def teacher_forced_hidden(self, params, embeds, mask, codes, title=None):
    logits = self._logits(embeds)[:, None]
    return jnp.broadcast_to(logits, (*codes.shape, logits.shape[-1]))

  def decode_pixels(self, params, codes):
    """Draws a pixel for each code."""
    return self.decode_vectors(params, self.code_vectors(params)[codes])

  def code_vectors(self, params):
    return jnp.arange(self.codebook_size, dtype=jnp.float32)[:, None] / 255

  def decode_vectors(self, params, vectors):
    return jnp.repeat(vectors[..., None, :, :], 3, -1)  # [..., 1, I, 3]

  def encode_pixels(self, params, pixels):
    return jnp.round(255 * pixels[..., 0, :, 0]).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Angles:
  """A CLIP: the mean code, or a title's first token, is an angle."""

  def embed_images(self, params, pixels):
    return _unit(pixels.mean((-3, -2, -1)) * 255)

  def embed_texts(self, params, ids, mask):
    return _unit(ids[..., 0])


def _unit(values):
  angles = values.astype(jnp.float32) / 8
  return jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)


def bandit_batch(prompts, model=Bandit()):
  """Returns windows of one history and one future item, prompts 1 to P."""
  rng = np.random.default_rng(0)
  shape = (prompts, 1, 1, model.image_tokens, 1)

  def images():
    codes = rng.integers(0, model.codebook_size, shape).astype(np.uint8)
    return np.repeat(codes, 3, -1)

  ids = np.arange(1, prompts + 1, dtype=np.int32)[:, None]
  ones = np.ones(ids.shape, bool)
  history = images()
  return Batch(
    prompt=Prompt(ids=ids, mask=ones, images=history),
    history=history,
    history_mask=ones,
    future=images(),
    future_mask=ones,
    title_ids=ids,
    title_mask=ones,
  )
