"""Targets: what rewards and evaluation compare generated images with.

Letters: P prompts, N history items, F future items, E the width of CLIP's
common space, h w pixels.
"""

from flax import struct
import jax
import jax.numpy as jnp

from genrec_jax.core.types import Batch, PyTree
from genrec_jax.groups import at_least_float32
from genrec_jax.models.clip import Clip


@struct.dataclass
class Targets:
  """CLIP embeddings of each prompt's next title, history and future."""

  text: jax.Array  # [P, E] float32 unit vectors, the next item's title
  history: jax.Array  # [P, N, E] float32 unit vectors, oldest first
  history_mask: jax.Array  # [P, N] bool, True = a real item
  future: jax.Array  # [P, F, E] float32 unit vectors, the next item first
  future_mask: jax.Array  # [P, F] bool, True = a real item


def embed_targets(clip: Clip, params: PyTree, batch: Batch) -> Targets:
  """Embeds the batch's titles, history and future, each once.

  Once per prompt, not per sample: a group's samples share their targets.

  Args:
    clip: the reward model.
    params: its parameters.
    batch: P windows; images uint8.

  Returns:
    Targets, without gradients.
  """
  history = batch.history
  pixels = jnp.concatenate([history, batch.future], 1)  # [P, N + F, h, w, 3]
  embeds = clip.embed_images(params, pixels.astype(jnp.float32) / 255)
  embeds = at_least_float32(embeds)  # [P, N + F, E]
  text = clip.embed_texts(params, batch.title_ids, batch.title_mask)
  return jax.lax.stop_gradient(
    Targets(
      text=at_least_float32(text),
      history=embeds[:, : history.shape[1]],
      history_mask=batch.history_mask,
      future=embeds[:, history.shape[1] :],
      future_mask=batch.future_mask,
    )
  )
