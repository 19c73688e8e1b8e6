"""The panel: all encoders that look at the images of an evaluation."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
from jax.sharding import Mesh
import numpy as np

from genrec_jax import targets as targets_lib
from genrec_jax.core.types import Batch
from genrec_jax.evals.compiled import compile_rows
from genrec_jax.evals.encoders import Encoder, embed_uint8
from genrec_jax.runtime.distributed import to_host
from genrec_jax.targets import Targets


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
  """The reward's CLIP, and the judges, which reward nothing.

  All of them look at an image in one compiled function: it goes to the devices
  once, and one that was generated there is read where it lies.

  Attributes:
    encoders: the reward's CLIP first, whose name is 'clip'.
    mesh: the rows of a batch are split over it.
  """

  encoders: tuple[Encoder, ...]
  mesh: Mesh

  @property
  def clip(self) -> Encoder:
    """The encoder that rewards."""
    return self.encoders[0]

  @property
  def judges(self) -> tuple[str, ...]:
    """The names of those that judge; see `raters`."""
    return tuple(e.name for e in self.encoders[1:] if not e.rates)

  @functools.cached_property
  def raters(self) -> dict[str, float]:
    """The logit scales of encoders that score quality, by their names."""
    return {
      encoder.name: float(to_host(encoder.params["logit_scale"]))
      for encoder in self.encoders
      if encoder.rates
    }

  def embed_images(
    self, images: np.ndarray | jax.Array
  ) -> Mapping[str, jax.Array]:
    """Returns each encoder's unit vectors [P, G, E] of uint8 [P, G, h, w, 3].

    They stay on the devices; see `on_host`.
    """
    return self._embed_images(self._params, images)

  def embed_targets(self, batch: Batch) -> Mapping[str, Targets]:
    """Returns each encoder's embeddings of what samples are compared with.

    `text` of a judge is None; see `embed_titles`.
    """
    return self._embed_targets(self._params, batch)

  def embed_titles(self, titles: Sequence[str]) -> dict[str, jax.Array]:
    """Returns unit vectors [P, E] of the judges that have a text tower."""
    return {
      encoder.name: encoder.embed_texts(titles)
      for encoder in self.encoders[1:]
      if encoder.tokenizer is not None
    }

  # An argument of what is compiled: constants are copied into each program.
  @property
  def _params(self):
    return {encoder.name: encoder.params for encoder in self.encoders}

  # Compiled at the first call and kept, so that all models and baselines share
  # one compilation for each shape.

  @functools.cached_property
  def _embed_images(self):
    def embed_images(params, images):
      return {
        encoder.name: embed_uint8(encoder.model, params[encoder.name], images)
        for encoder in self.encoders
      }

    return compile_rows(embed_images, self.mesh)

  @functools.cached_property
  def _embed_targets(self):
    def embed_targets(params, batch):
      # The batch's tokens are those of CLIP's tokenizer.
      untitled = dataclasses.replace(batch, title_ids=None, title_mask=None)
      return {
        encoder.name: targets_lib.embed_targets(
          encoder.model,
          params[encoder.name],
          batch if encoder is self.clip else untitled,
        )
        for encoder in self.encoders
      }

    return compile_rows(embed_targets, self.mesh)


def on_host(embeds: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
  """Returns the embeddings of all processes, float32, on the host."""
  return {
    name: to_host(values).astype(np.float32) for name, values in embeds.items()
  }
