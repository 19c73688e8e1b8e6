"""CLIP as the judge of generated images."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax import targets as targets_lib
from genrec_jax.core.types import Batch, PyTree
from genrec_jax.evals import scores
from genrec_jax.evals.compiled import compile_rows
from genrec_jax.evals.held_out import HeldOutBatch
from genrec_jax.models.clip import Clip
from genrec_jax.targets import Targets


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
  """Scores images for held-out users, by CLIP and, where known, by the truth.

  Attributes:
    clip: the model.
    params: its parameters, on the devices.
    tokenizer: of its checkpoint.
    copy_threshold: the cosine with a history image from which a sample is a
      copy of it.
    mesh: the rows of a batch are split over it.
  """

  clip: Clip
  params: PyTree  # float32
  tokenizer: Any
  copy_threshold: float
  mesh: jax.sharding.Mesh

  def embed_images(self, images: np.ndarray | jax.Array) -> jax.Array:
    """Returns unit vectors [P, G, E] of images uint8 [P, G, h, w, 3].

    Images that were generated on the devices are read where they lie.
    """
    return self._embed_images(self.params, images)

  def embed_targets(self, batch: Batch) -> Targets:
    """Returns the embeddings that the samples of a batch are compared with."""
    return self._embed_targets(self.params, batch)

  def score(
    self,
    held: HeldOutBatch,
    embeds: np.ndarray,
    attributes: np.ndarray | None,
  ) -> dict[str, np.ndarray]:
    """Returns the scores of the samples of one batch: {metric: [count]}.

    Args:
      held: P users, of whom `count` are scored.
      embeds: [P, G, E] CLIP embeddings of the samples.
      attributes: [P, G, 5] of `held_out.read_attributes`.
    """
    # Every metric [P]; rows of the fill are scored, too, and cut off below.
    result = scores.clip_scores(embeds, held.targets, self.copy_threshold)
    if held.truth is not None and attributes is not None:
      # Its copy rate takes the place of CLIP's: the truth needs no threshold.
      mask = np.asarray(held.targets.history_mask)
      result |= scores.truth_scores(
        attributes, held.truth.history, mask, held.truth.wants
      )
    return {name: values[: held.count] for name, values in result.items()}

  # Compiled at the first call and kept, so that all models and baselines share
  # one compilation for each shape.

  @functools.cached_property
  def _embed_images(self):
    def embed_images(params, images):
      # [P, G, E]; pixels are in [0, 1], CLIP normalises them itself.
      return self.clip.embed_images(params, images.astype(jnp.float32) / 255)

    return compile_rows(embed_images, self.mesh)

  @functools.cached_property
  def _embed_targets(self):
    def embed_targets(params, batch):
      return targets_lib.embed_targets(self.clip, params, batch)

    return compile_rows(embed_targets, self.mesh)
