"""A family in a hundred lines: what CONTRIBUTING's "add a model" asks for.

A code is the brightness of a part of an image; it is predicted from the code
before it and the mean of its prompt. Letters: P prompts, T prompt tokens,
G samples, I codes, C codebook, D width.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from genrec_jax.core.types import Prefix
from genrec_jax.hf import write_model
from genrec_jax.hf.rules import embedding, linear, to_hf
from genrec_jax.models.api import Vocabulary
from genrec_jax.testing import TinyProcessor

SIDE, GRID, LEVELS, WIDTH = 32, 4, 8, 16


@dataclasses.dataclass(frozen=True)
class Toy:
  """The model: a `models.api.Generator`."""

  vocab_size: int
  dtype: str = "float32"

  image_tokens, codebook_size = GRID * GRID, LEVELS
  image_size = read_size = SIDE
  prompt_tokens = 4
  image_begin = TinyProcessor.image_begin
  adaptable = reader = "nothing"

  @property
  def image_vocabulary(self):
    return Vocabulary(
      size=LEVELS,
      embed=lambda params, codes: params["codes"]["embedding"][codes],
      logits=lambda params, hidden: hidden @ params["head"]["kernel"],
      decode_params=lambda params: params,
    )

  def without_gradient(self, *, words=False):
    return "nothing"

  def with_compute(self, *, dtype, remat="none"):
    return dataclasses.replace(self, dtype=dtype)

  def init(self, key):
    shapes = {
      "words": {"embedding": (self.vocab_size, WIDTH)},
      "codes": {"embedding": (LEVELS, WIDTH)},
      "head": {"kernel": (WIDTH, LEVELS)},
    }
    return jax.tree.map(
      lambda shape: jax.random.normal(key, shape),
      shapes,
      is_leaf=lambda x: isinstance(x, tuple),
    )

  def unconditional(self, prompt):
    ids = jnp.zeros_like(prompt.ids)
    return prompt.replace(ids=ids, images=prompt.images[:, :0])

  def read_images(self, params, images):
    return images.mean((2, 3, 4)) / 255  # [P, N]

  def embed(self, params, prompt):
    embeds = params["words"]["embedding"][prompt.ids]  # [P, T, D]
    if prompt.images.shape[1]:
      light = prompt.images
      if light.dtype == jnp.uint8:
        light = self.read_images(params, light)
      embeds += light.mean(1)[:, None, None]
    return embeds

  def _state(self, embeds, mask):
    return (embeds * mask[..., None]).sum(1) / mask.sum(1)[:, None]  # [P, D]

  def prefill(self, params, embeds, mask):
    state = self._state(embeds, mask)
    return Prefix(keys=state, values=(), mask=mask, hidden=state)

  def shares_unconditional(self, prompts, length):
    return False

  def decode_prefix(self, prefix, unconditional=None, *, narrow=False):
    return prefix

  def init_cache(self, prefix, num_samples, length):
    return ()

  def cache_tokens(self, codes):
    return codes

  def cast_params(self, params):
    return {}

  def decode_subtree(self, params, *, words=False):
    return params

  def decode_step(
    self, vocabulary, params, prefix, cache, tokens, index, before=None, **_
  ):
    hidden = prefix.keys[:, None] + vocabulary.embed(params, tokens)
    return vocabulary.logits(params, hidden), cache

  def teacher_forced_hidden(self, params, embeds, mask, codes, title=None):
    before = self.image_vocabulary.embed(params, codes[:, :, :-1])
    before = jnp.pad(before, [(0, 0), (0, 0), (1, 0), (0, 0)])
    return self._state(embeds, mask)[:, None, None] + before  # [P, G, I, D]

  def encode_pixels(self, params, pixels):
    part = SIDE // GRID
    grid = pixels.reshape(*pixels.shape[:-3], GRID, part, GRID, part, 3)
    codes = grid.mean((-4, -2, -1)).reshape(*pixels.shape[:-3], -1)
    return jnp.round(codes * (LEVELS - 1)).astype(jnp.int32)  # [..., I]

  def decode_pixels(self, params, codes):
    return self.decode_vectors(params, self.code_vectors(params)[codes])

  def code_vectors(self, params):
    return jnp.arange(LEVELS, dtype=jnp.float32)[:, None] / (LEVELS - 1)

  def decode_vectors(self, params, vectors):
    grid = vectors.reshape(*vectors.shape[:-2], GRID, GRID, 1)
    part = SIDE // GRID
    pixels = jnp.repeat(jnp.repeat(grid, part, -3), part, -2)
    return jnp.repeat(pixels, 3, -1)  # [..., h, w, 3]


def rules(model):
  return (
    *embedding("words", "words"),
    *embedding("codes", "codes"),
    *linear("head", "head", bias=False),
  )


# What `hf.families.FAMILIES` names: a module, or what has its names.
FAMILY = types.SimpleNamespace(
  SHARDING=(
    (r"(words|codes)/embedding", PartitionSpec()),
    (r"head/kernel", PartitionSpec()),
  ),
  IGNORED=(),
  CARRIED=(),
  RENAMED=(),
  PRESETS={},
  open_processor=lambda folder, config: TinyProcessor(),
  model_from_hf=lambda config, processor, tensors: Toy(config["vocab_size"]),
  rules=rules,
  config_for_export=lambda config, model: dict(config),
  warnings=lambda stored: [],
)


def write(folder):
  """Writes a checkpoint of random parameters."""
  model = Toy(len(TinyProcessor().tokenizer))
  params = jax.device_get(model.init(jax.random.key(0)))
  config = {"model_type": "toy", "vocab_size": model.vocab_size}
  write_model.write(folder, config, to_hf(rules(model), params))
