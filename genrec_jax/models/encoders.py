"""ImageEncoder: what rewards and evaluation ask of any encoder of images.

CLIP, SigLIP and DINOv2 are frozen, hashable dataclasses of static configuration
whose methods take the parameters. E is the width of an embedding.
"""

from typing import Protocol

import jax

from genrec_jax.core.types import PyTree


class ImageEncoder(Protocol):
  """A model that maps images to unit vectors, some of them texts, too."""

  @property
  def embed_dim(self) -> int:
    """E: the width of an embedding."""

  @property
  def text_positions(self) -> int:
    """Tokens of the longest text; 0: there is no text tower."""

  @property
  def reads_padding(self) -> bool:
    """Whether texts were padded to all positions in training, without a mask.

    Then they must be here; else padding is masked and changes nothing.
    """

  def init(self, key: jax.Array) -> PyTree:
    """Returns random float32 parameters."""

  def embed_images(self, params: PyTree, pixels: jax.Array) -> jax.Array:
    """Embeds images [..., h, w, 3] in [0, 1], any size.

    Returns:
      [..., E] float32 unit vectors.
    """

  def embed_texts(
    self, params: PyTree, ids: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Embeds tokenised texts.

    Args:
      params: as from `init`.
      ids: [..., W] int, each row with its end token.
      mask: [..., W] bool, True = a token that is read.

    Returns:
      [..., E] float32 unit vectors.

    Raises:
      ValueError: there is no text tower, or W is not what it takes.
    """
