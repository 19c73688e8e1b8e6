"""External reward: a user's own Python function, called on the host.

The one reward that leaves the graph: samples travel to the host, and the device
waits for what the function returns. What fails there is NaN and never a number:
the group of a sample that has failed is left out of the update, and counted.
Letters: P prompts, G samples per prompt, h w pixels.
"""

from collections.abc import Callable, Mapping
import functools
import importlib
import os
import sys
import threading
from typing import Any

import jax
from jax.experimental import io_callback
import jax.numpy as jnp
import numpy as np

from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError, one_line

# A prompt's samples uint8 [G, h, w, 3] and what is known of it -> [G] numbers.
Function = Callable[[np.ndarray, Mapping[str, Any]], Any]
# The number of a window -> what is known of it, see `data.metadata`.
Describe = Callable[[int], Mapping[str, Any]]

_said: set[str] = set()  # failures that have been told, each once


def external(
  images: jax.Array,
  numbers: jax.Array,
  describe: Describe | None = None,
  *,
  function: str,
  seconds: float,
  threads: int,
) -> jax.Array:
  """Returns what a function of the user's says of each sample: [P, G].

  It is called prompt by prompt, in the process whose devices hold it. NaN are
  the samples of a prompt for which it raises, takes too long, or returns
  anything but G numbers; and single samples for which it returns NaN or inf.

  Args:
    images: [P, G, h, w, 3] uint8.
    numbers: [P] int32, of the prompts' windows.
    describe: what is known of a window; None: nothing.
    function: 'module:function'.
    seconds: that a call may take.
    threads: calls at a time; more than 1 for a function that waits, of a
      service, and may be called from several threads.
  """
  told = describe or (lambda number: {})
  call = functools.partial(
    score_prompts, load(function), told, seconds=seconds, threads=threads
  )

  def score(images: jax.Array, numbers: jax.Array) -> jax.Array:
    result = jax.ShapeDtypeStruct(images.shape[:2], jnp.float32)
    # Not `pure_callback`, which XLA may call twice or never.
    return io_callback(call, result, images, numbers)

  images = jax.lax.stop_gradient(images)
  if jax.sharding.get_abstract_mesh().empty:
    return score(images, numbers)

  def own_rows(images: jax.Array, numbers: jax.Array) -> jax.Array:
    # The devices along `model` hold the same rows: one of them asks, for all,
    # as a function may answer otherwise when asked again.
    mine = jax.lax.cond(
      jax.lax.axis_index("model") == 0,
      score,
      lambda images, numbers: jnp.zeros(images.shape[:2], jnp.float32),
      images,
      numbers,
    )
    return jax.lax.psum(mine, "model")

  return jax.shard_map(
    own_rows,
    in_specs=(sharding.BATCH, sharding.BATCH),
    out_specs=sharding.BATCH,
    check_vma=False,  # it cannot see through a callback
  )(images, numbers)


def load(name: str) -> Function:
  """Returns the function 'module:function'; modules of the folder one is in.

  Raises:
    UserError: there is none, or importing it fails.
  """
  module, _, function = name.partition(":")
  if not module or not function:
    raise UserError(
      f"{name!r} names no function: expected 'module:function', such as"
      " my_rewards:brightness for brightness() in my_rewards.py"
    )
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())  # behind all others
  try:
    found = getattr(importlib.import_module(module), function)
  except Exception as error:  # whatever the user's module raises
    raise UserError(
      f"{name!r} cannot be imported ({type(error).__name__}:"
      f" {one_line(error)}): expected a function of a module in this folder or"
      " on PYTHONPATH"
    ) from error
  if not callable(found):
    raise UserError(f"{name!r} is {found!r}: expected a function")
  return found


def probe(
  function: str, describe: Describe, images: np.ndarray, *, seconds: float
) -> None:
  """Calls a function once, before a run begins.

  Args:
    function: 'module:function'.
    describe: what is known of a window.
    images: [G, h, w, 3] uint8, real ones.
    seconds: that the call may take.

  Raises:
    UserError: it raises, takes too long or returns what no reward is.
  """
  call = _Call(load(function), describe, images, 0)
  call.join(seconds)
  if call.error:
    raise UserError(
      f"rewards.external.function={function!r} fails for images of the data set"
      f" ({call.error}): expected [{len(images)}] numbers of uint8"
      f" {list(images.shape)} and a dict; put it right, or give"
      " --config.rewards.external.weight=0"
    )


def score_prompts(
  function: Function,
  describe: Describe,
  images: Any,
  numbers: Any,
  *,
  seconds: float,
  threads: int,
) -> np.ndarray:
  """Returns [P, G] float32 of uint8 [P, G, h, w, 3]; NaN where it fails.

  Args:
    function: of the user.
    describe: what is known of a window.
    images: of P prompts.
    numbers: [P], of their windows.
    seconds: that a call may take; the thread of one that takes longer is left
      to itself, as Python cannot end it.
    threads: calls at a time.
  """
  images, numbers = np.asarray(images), np.asarray(numbers)
  scores = np.full(images.shape[:2], np.nan, np.float32)
  for start in range(0, len(images), threads):
    calls = [
      _Call(function, describe, image, int(number))
      for image, number in zip(
        images[start : start + threads],
        numbers[start : start + threads],
        strict=True,
      )
    ]
    for place, call in enumerate(calls, start):
      scores[place] = call.result(seconds)
  return np.where(np.isfinite(scores), scores, np.nan).astype(np.float32)


class _Call:
  """A call of the user's function, in a thread of its own."""

  def __init__(
    self,
    function: Function,
    describe: Describe,
    images: np.ndarray,
    number: int,
  ):
    self._count = len(images)
    self._scores: np.ndarray | None = None
    self.error = ""

    def run() -> None:
      try:
        # A copy: what the function does to it must not reach the device.
        self._scores = self._checked(function(images.copy(), describe(number)))
      except BaseException as error:  # whatever the user's code raises
        self.error = f"{type(error).__name__}: {one_line(error)}"

    # A daemon, which a program that ends does not wait for.
    self._thread = threading.Thread(target=run, daemon=True)
    self._thread.start()

  def join(self, seconds: float) -> None:
    """Waits for the call to end; one that does not has an error."""
    self._thread.join(seconds)
    if self._thread.is_alive():
      self.error = f"no answer within {seconds:g} s"

  def result(self, seconds: float) -> np.ndarray:
    """Returns [G] float32, NaN if the call has failed."""
    self.join(seconds)
    if self._scores is not None and not self.error:
      return self._scores
    if self.error not in _said:
      _said.add(self.error)
      print(
        f"rewards.external failed ({self.error}): groups for which it does are"
        " left out; reward/external_dropped counts them",
        file=sys.stderr,
        flush=True,
      )
    return np.full(self._count, np.nan, np.float32)

  def _checked(self, result: Any) -> np.ndarray:
    scores = np.asarray(result, np.float32)
    if scores.shape != (self._count,):
      raise ValueError(
        f"it returned {list(scores.shape)}; expected one number for each of"
        f" {self._count} images"
      )
    return scores
