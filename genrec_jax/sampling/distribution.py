"""The distribution that codes and tokens are sampled from, as one value."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How images and answers are sampled from a generator's logits.

  Logits, guided by an unconditional branch, are divided by a temperature and
  cut by top-k and top-p. The same value samples and scores, so a sample's
  log-probability is that of the distribution it came from.

  Attributes:
    num_samples: G, samples of each prompt.
    guidance: weight of classifier-free guidance, see `guide`; 1 leaves the
      unconditional branch out.
    temperature: divides the logits, > 0; a traced number, which nobody can
      check, is an argument of its graph.
    top_k: keep the k largest logits (ties with the k-th too); 0 keeps all.
    top_p: then keep the smallest set of largest logits whose probability
      reaches top_p (arXiv 1904.09751), in (0, 1]; 1 keeps all.
    greedy: take the largest logit, the first of equals; temperature and cuts
      then change nothing.
    int8_cache: keep keys and values in eight bits while codes are sampled; see
      `nn.int8`. Scoring has none.

  Raises:
    ValueError: a value out of its range.
  """

  num_samples: int = 1
  guidance: float = 1.0
  temperature: float | jax.Array = 1.0
  top_k: int = 0
  top_p: float = 1.0
  greedy: bool = False
  int8_cache: bool = False

  def __post_init__(self) -> None:
    """Checks what every use divides or cuts by."""
    traced = isinstance(self.temperature, jax.core.Tracer)
    cold = not traced and self.temperature <= 0
    if cold or self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f"temperature={self.temperature}, top_k={self.top_k},"
        f" top_p={self.top_p}: expected temperature > 0, top_k >= 0 and"
        " 0 < top_p <= 1"
      )

  @property
  def of_words(self) -> "Sampling":
    """How words are sampled: as codes are, but without guidance."""
    return dataclasses.replace(self, guidance=1.0)

  @property
  def guided(self) -> bool:
    """True if the unconditional branch takes part."""
    return self.guidance != 1

  def logprobs(
    self, logits: jax.Array, keep: jax.Array | None = None
  ) -> jax.Array:
    """Returns the log-probabilities [..., C] that codes are sampled from.

    Args:
      logits: [..., C], any float type, guided already.
      keep: [...] int32, a code that stays in whatever the cuts say. Scoring
        passes the sampled code: on the very edge of a cut, rounding must not
        turn its log-probability into -inf.
    """
    # In float32 whatever the model computes in: bfloat16 rounds a difference of
    # log-probabilities away.
    logits = logits.astype(jnp.float32) / self.temperature
    if not (self.top_k or self.top_p < 1):
      return jax.nn.log_softmax(logits)
    kept = logits  # [..., C], -inf where cut off
    if self.top_k:
      size = min(self.top_k, logits.shape[-1])
      floor = jax.lax.top_k(kept, size)[0][..., -1:]  # [..., 1]
      kept = jnp.where(kept >= floor, kept, -jnp.inf)
    if self.top_p < 1:
      ordered = -jnp.sort(-kept)  # the largest first
      probs = jax.nn.softmax(ordered)
      # What the larger ones already hold: the code that crosses top_p stays.
      before = jnp.cumsum(probs, -1) - probs
      floor = jnp.min(
        jnp.where(before < self.top_p, ordered, jnp.inf), -1, keepdims=True
      )
      kept = jnp.where(kept >= floor, kept, -jnp.inf)
    if keep is not None:
      codes = jnp.arange(logits.shape[-1]).reshape((1,) * keep.ndim + (-1,))
      kept = jnp.where(keep[..., None] == codes, logits, kept)
    return jax.nn.log_softmax(kept)

  def draw(
    self, logits: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Draws one code per row of logits.

    With `greedy` the log-probabilities are 0: the distribution drawn from is a
    point.

    Args:
      logits: [..., C], guided already.
      key: PRNG key of this position.

    Returns:
      Codes [...] int32 and their log-probabilities [...] float32.
    """
    if self.greedy:
      codes = jnp.argmax(logits, -1).astype(jnp.int32)
      return codes, jnp.zeros(codes.shape, jnp.float32)
    logprobs = self.logprobs(logits)  # [..., C]
    codes = jax.random.categorical(key, logprobs).astype(jnp.int32)
    return codes, take_codes(logprobs, codes)


def take_codes(values: jax.Array, codes: jax.Array) -> jax.Array:
  """Takes from values [..., C] those at codes [...]: [...]."""
  return jnp.take_along_axis(values, codes[..., None], -1)[..., 0]
