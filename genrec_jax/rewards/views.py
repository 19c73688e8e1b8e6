"""Views: the samples of a step and their targets in each encoder's space.

Letters: P prompts, G samples per prompt, h w pixels, E the width of an
encoder's space.
"""

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax

from genrec_jax.core.types import Batch, PyTree
from genrec_jax.models.pixels import to_uint8
from genrec_jax.targets import Targets, embed_targets, of_quality

# By what the samples are seen: `config.clip`, the encoder of the reward
# 'quality'; and what no encoder is: the host, CLIP's view of written titles,
# and the generator's own eyes.
CLIP, QUALITY, HOST = "clip", "quality", "host"
WRITTEN, EYES = "written", "eyes"
NO_ENCODERS = frozenset({HOST, WRITTEN, EYES})


class View(NamedTuple):
  """Samples and what they are compared with, as one encoder sees them.

  The host sees images [P, G, h, w, 3] uint8 and the windows' numbers [P].
  """

  images: jax.Array  # [P, G, E] unit vectors
  targets: Any


def look(
  pixels: jax.Array,
  batch: Batch,
  params: Mapping[str, PyTree],
  encoders: Mapping[str, Any],
  names: Collection[str],
) -> dict[str, View]:
  """Returns the view of each encoder that is named; the others see nothing.

  Args:
    pixels: [P, G, h, w, 3] of the samples, in [0, 1].
    batch: P windows, with the titles of all that are named but 'clip', whose
      own are `title_ids`; an encoder without a title reads no texts.
    params: by encoder.
    encoders: by name.
    names: of those that some reward reads.
  """
  found = {
    name: View(
      encoders[name].embed_images(params[name], pixels),
      _targets(name, encoders[name], params[name], batch),
    )
    for name in encoders
    if name in names
  }
  if HOST in names:
    found[HOST] = View(to_uint8(pixels), batch.numbers)
  return found


def _targets(name: str, encoder: Any, params: PyTree, batch: Batch) -> Targets:
  if name == CLIP:
    return embed_targets(encoder, params, batch)
  ids, mask = batch.titles.get(name, (None, None))
  own = dataclasses.replace(batch, title_ids=ids, title_mask=mask)
  targets = embed_targets(encoder, params, own)
  if name == QUALITY:
    targets = of_quality(targets, params["logit_scale"])
  return targets
