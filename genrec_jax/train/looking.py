"""What rewards see of a step's samples, each by its own eyes.

Letters: P prompts, G samples per prompt, h w pixels, E the width of an
encoder's space.
"""

import jax

from genrec_jax import rewards
from genrec_jax.core.types import Batch, PyTree, Title
from genrec_jax.models.api import Generator
from genrec_jax.models.clip import Clip
from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.models.pixels import to_uint8
from genrec_jax.train.rl_options import RLOptions


def look(
  pixels: jax.Array,
  frozen: PyTree,
  batch: Batch,
  clip: Clip,
  options: RLOptions,
) -> dict[str, rewards.View]:
  """Returns samples and targets as each encoder that rewards sees them.

  Args:
    pixels: [P, G, h, w, 3] of the samples, in [0, 1].
    frozen: 'clip' and 'encoders', what is read of them.
    batch: P windows.
    clip: the first encoder.
    options: the others, and the rewards that say which are read.
  """
  return rewards.look(
    pixels,
    batch,
    _encoder_params(frozen),
    _encoders(clip, options),
    options.looking,
  )


def look_at_titles(
  title: Title | None,
  pixels: jax.Array,
  views: dict[str, rewards.View],
  model: Generator,
  params: PyTree,
  frozen: PyTree,
  clip: Clip,
  options: RLOptions,
) -> dict[str, rewards.View]:
  """Returns the views of written titles that rewards ask for; else nothing.

  Args:
    title: [P, G, W]; None: there is none.
    pixels: [P, G, h, w, 3] of the samples, in [0, 1].
    views: of the images, see `look`.
    model: the generator.
    params: all of its parameters.
    frozen: 'clip'.
    clip: reads the titles.
    options: the rewards that say what is asked.
  """
  found: dict[str, rewards.View] = {}
  if title is None:
    return found
  if rewards.WRITTEN in options.looking:
    assert options.reading is not None
    embeds = rewards.embed_titles(
      clip, frozen[rewards.CLIP], title, options.reading.translator
    )  # [P, G, E]
    found[rewards.WRITTEN] = rewards.View(
      jax.lax.stop_gradient(embeds), rewards.Beside(*views[rewards.CLIP])
    )
  if rewards.EYES in options.looking:
    assert options.reading is not None
    assert options.reading.question is not None
    logprobs = rewards.read_titles(
      model, params, options.reading.question, to_uint8(pixels), title
    )  # [P, G, W]
    found[rewards.EYES] = rewards.View(
      rewards.mean_reading(logprobs, title), None
    )
  return found


def embed(
  frozen: PyTree, clip: Clip, options: RLOptions, pixels: jax.Array
) -> dict[str, jax.Array]:
  """Embeds pixels [p, h, w, 3] by each encoder that rewards: [p, E] each."""
  params = _encoder_params(frozen)
  return {
    name: encoder.embed_images(params[name], pixels)
    for name, encoder in _encoders(clip, options).items()
    if name in options.looking
  }


def _encoders(clip: Clip, options: RLOptions) -> dict[str, ImageEncoder]:
  return {rewards.CLIP: clip, **options.encoders}


def _encoder_params(frozen: PyTree) -> dict[str, PyTree]:
  return {rewards.CLIP: frozen.get("clip"), **frozen.get("encoders", {})}
