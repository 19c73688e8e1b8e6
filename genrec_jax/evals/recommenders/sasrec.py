"""SASRec: self-attention over a user's items (arXiv 1808.09781).

Each position predicts the item after it; items are scored by their input
embeddings. Blocks are those of the encoders, pre-norm, with one dropout on what
a block adds.

Letters: B rows, T positions, D width, I items, K sampled items.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from genrec_jax.nn import layers
from genrec_jax.nn.encoder import EncoderBlock

_SCALE = 0.02  # of embeddings at the start; logits begin near 0


class SASRec(nn.Module):
  """States that follow each item of a history."""

  num_items: int
  length: int  # of the longest history that is read, T at most
  width: int
  num_layers: int
  num_heads: int
  dropout: float

  @nn.compact
  def __call__(
    self, items: jax.Array, deterministic: bool = True
  ) -> tuple[jax.Array, jax.Array]:
    """Reads histories; a state knows nothing of the items after its own.

    So histories are filled up at their end, with any item.

    Args:
      items: [B, T] int, oldest first.
      deterministic: drops nothing; else `rngs` has a key 'dropout'.

    Returns:
      States [B, T, D], and the items' embeddings [I, D]: the products of both
      are logits of the next item.
    """
    normal = nn.initializers.normal(_SCALE)
    table = self.param("items", normal, (self.num_items, self.width))
    places = self.param("positions", normal, (self.length, self.width))
    size = items.shape[1]
    x = table[items] * self.width**0.5 + places[None, :size]  # [B, T, D]
    x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
    seen = jnp.tri(size, dtype=bool)[None]  # [1, T, T]
    for number in range(self.num_layers):
      block = EncoderBlock(
        mlp_width=2 * self.width,
        num_heads=self.num_heads,
        activation="gelu",
        norm_epsilon=1e-6,
        dtype="float32",
        name=f"layer{number}",
      )
      added = block(x, seen) - x
      x += nn.Dropout(self.dropout, deterministic=deterministic)(added)
    return layers.layer_norm(1e-6, "float32", "norm")(x), table


def loss(
  model: SASRec, params: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> jax.Array:
  """Returns the cross-entropy of the next items among sampled ones.

  The softmax is over the target and K items sampled uniformly, whose sum stands
  for that of all other items (Jean et al., arXiv 1412.2007); it is exact where
  these are all items once. One negative and binary cross-entropy, as in the
  paper, trains much worse (Klenitskiy and Vasilev, arXiv 2309.07602).

  Args:
    model: the module.
    params: of it.
    batch: "items" and "targets" [B, T] int, "mask" [B, T] bool, True = there is
      a target; "others" [K] int.
    key: of dropout.
  """
  outputs: Any = model.apply(
    {"params": params},
    batch["items"],
    deterministic=False,
    rngs={"dropout": key},
  )
  states, table = outputs  # [B, T, D], [I, D]
  targets, others = batch["targets"], batch["others"]
  own = jnp.sum(states * table[targets], -1, keepdims=True)  # [B, T, 1]
  logits = states @ table[others].T  # [B, T, K]
  # A target among the sampled is not its own rival.
  rivals = others[None, None] != targets[..., None]  # [B, T, K]
  # Each of the K stands for as many of the other items.
  weight = (model.num_items - 1) / jnp.maximum(rivals.sum(-1, keepdims=True), 1)
  logits = jnp.where(rivals, logits + jnp.log(weight), -jnp.inf)
  total = jax.nn.logsumexp(jnp.concatenate([own, logits], -1), -1)  # [B, T]
  losses = jnp.where(batch["mask"], total - own[..., 0], 0)
  return losses.sum() / jnp.maximum(batch["mask"].sum(), 1)
