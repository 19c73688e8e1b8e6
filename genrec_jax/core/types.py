"""The pytrees that travel between modules, each field with its shape."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

PyTree = Any
# A field that is numpy's on the host and JAX's on devices, or described by a
# ShapeDtypeStruct where a step is compiled without data.
Array = Any


@struct.dataclass
class Prompt:
  """A prompt of the generator; rows are left-padded.

  The placeholders in `ids` take the features of `images` in order, so a row
  with fewer images than N keeps its real ones first.
  """

  ids: Array  # [P, T] int32
  mask: Array  # [P, T] bool, True = a real token
  # [P, N, h, w, 3] uint8, squares; or what a generator has read of them.
  images: Array


@struct.dataclass
class Prefix:
  """Keys and values of a prefilled prompt, shared by all its answers.

  Laid out for decoding, keys and values are tuples of L, and keys transposed:
  [P, K, H, T].
  """

  keys: Array  # [L, P, K, T, H]
  values: Array  # [L, P, K, T, H]
  mask: jax.Array  # [P, T] bool, True = a real token
  hidden: jax.Array  # [P, D], the last position, after the final norm


@struct.dataclass
class KVCache:
  """Keys and values of the answers so far, one array per layer.

  Or one `nn.int8.Vectors`. Of the axes P, K and G those of length 1 are left
  out.
  """

  keys: tuple[Any, ...]  # L x [P, K, G, I, H]
  values: tuple[Any, ...]  # L x [P, K, G, I, H]


@struct.dataclass
class Title:
  """Titles that answers write before their image.

  The words come first, and after them the token that ended the title. One of W
  words has none: it was cut off, and its image begins all the same.
  """

  tokens: Array  # [P, G, W] int32
  words: Array  # [P, G, W] bool, True = a word, which the image comes after

  @property
  def written(self) -> jax.Array:
    """[P, G, W] bool, True = a token that was chosen: a word, or the end."""
    # What follows a word was chosen, whatever it is.
    return jnp.concatenate(
      [jnp.ones_like(self.words[..., :1]), self.words[..., :-1]], -1
    )

  @property
  def cut(self) -> jax.Array:
    """[P, G] bool, True = had not ended after W tokens."""
    return self.words[..., -1]


@struct.dataclass
class Rollout:
  """Sampled answers and the log-probabilities they were sampled with."""

  codes: jax.Array  # [P, G, I] int32
  logprobs: jax.Array  # [P, G, I] float32
  title: Title | None = None  # of W tokens; None: answers are images alone
  title_logprobs: jax.Array | None = None  # [P, G, W] float32, 0 if not written


@struct.dataclass
class Batch:
  """One batch of windows, as `data.stream` yields it (numpy arrays).

  `future[:, 0]` is the next item, the target. `history` and `future` are what
  the image tokenizer and CLIP see: the centre square of an image. The prompt's
  are the history once more, as the generator reads it, maybe of another size.
  """

  prompt: Prompt
  history: Array  # [P, N, h, w, 3] uint8, oldest first
  history_mask: Array  # [P, N] bool, True = a real item
  future: Array  # [P, F, h, w, 3] uint8
  future_mask: Array  # [P, F] bool, True = a real item
  title_ids: Array  # [P, W] int32, the next item's title, CLIP tokens
  title_mask: Array  # [P, W] bool, True = a real token
  # The same title as an answer begins with it, [P, 1, W]; None: answers are
  # images alone.
  title: Title | None = None
  # The same for encoders besides CLIP that reward: name -> (ids, mask).
  titles: dict[str, tuple[Array, Array]] = struct.field(default_factory=dict)
  # [P] int32, of the windows; None where no reward on the host asks for them.
  numbers: Array | None = None


@struct.dataclass
class TrainState:
  """Parameters and optimizer state: what a step changes and is saved."""

  step: Array  # [] int32
  params: PyTree  # trainable only
  opt_state: PyTree
  # Copies of the parameters, see `train.memory`; None where there are none.
  ema: PyTree = None
  reference: PyTree = None

  @property
  def shown(self) -> PyTree:
    """The parameters that are evaluated and exported: the average, if any."""
    return self.params if self.ema is None else self.ema
