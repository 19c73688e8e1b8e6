"""Throughput of a run: samples, images and tokens per second, and MFU.

Clocks differ from run to run, so none of this is in metrics.jsonl, which a
resumed run writes byte for byte: it goes to TensorBoard and the terminal.
Letters: P prompts, T prompt tokens, N history images, G samples per prompt,
I codes per image.
"""

import statistics
import time
from typing import Any, NamedTuple

import jax

from genrec_jax.core import chips
from genrec_jax.models.api import Generator

_RECENT = 100  # steps that the median is of


class Work(NamedTuple):
  """What one step does, over all devices."""

  samples: int  # answers trained on: P G
  images: int  # those, and the images that prompts hold: P (N + G)
  tokens: int  # of prompts and answers, each once: P (T + G I)
  flops: float  # of the language model's weights; see `work`


def work(
  weights: int,
  *,
  prompts: int,
  tokens: int,
  images: int,
  samples: int,
  codes: int,
  branches: int = 1,
  forward: int = 0,
  updates: int = 1,
) -> Work:
  """Returns the work of a step.

  Its FLOPs are two for each weight of the language model and its image head and
  each token, three times that where there is a gradient (Chowdhery et al.,
  arXiv 2204.02311, appendix B, without attention). Attention, the vision tower,
  the image tokenizer and encoders are left out, and so is what is computed
  again to save memory: the MFU is a lower bound.

  Args:
    weights: parameters that a token is multiplied with.
    prompts: P.
    tokens: T.
    images: N.
    samples: G.
    codes: I.
    branches: of guidance: 2 where guided.
    forward: passes without a gradient over prompts and answers: the rollout,
      the reference.
    updates: passes with one.
  """
  total = prompts * (tokens + samples * codes)
  return Work(
    samples=prompts * samples,
    images=prompts * (images + samples),
    tokens=total,
    flops=2.0 * weights * branches * total * (forward + 3 * updates),
  )


def count_weights(model: Generator) -> int:
  """Returns the parameters that every token of an answer is multiplied with."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  # Of one table for words and codes, what is of codes.
  read = jax.eval_shape(model.image_vocabulary.decode_params, params)
  return sum(leaf.size for leaf in jax.tree.leaves(read))


class Clock:
  """Times steps; of what else a loop does it knows nothing.

  Args:
    work: of a step.
    devices: that share it.
  """

  def __init__(self, work: Work, devices: list[Any]):
    self._work = work
    chip = chips.find(devices[0].device_kind)
    self._peak = chip and chip.flops * len(devices)
    self._kind = f"{len(devices)} x {devices[0].device_kind}"
    self._last: float | None = None
    self._seconds: list[float] = []

  def pause(self) -> None:
    """Leaves out the time up to the next step: an evaluation, a save."""
    self._last = None

  def tick(self) -> dict[str, float]:
    """Says that a step is done; returns the rates of it, {} if not known."""
    now = time.monotonic()
    last, self._last = self._last, now
    if last is None:  # the first, which compiles, or after a pause
      return {}
    seconds = max(now - last, 1e-9)
    self._seconds = [*self._seconds[-_RECENT + 1 :], seconds]
    return self._rates(seconds)

  def line(self) -> str:
    """Returns the median rates of the last steps in words; '' if unknown."""
    if not self._seconds:
      return ""
    rates = self._rates(statistics.median(self._seconds))
    words = [
      f"{rates[name + '_per_second']:,.4g} {name}/s"
      for name in ("samples", "images", "tokens")
    ]
    if "mfu" in rates:
      words.append(f"MFU {rates['mfu']:.1%}")
    return f"throughput of {self._kind}: {', '.join(words)}"

  def _rates(self, seconds: float) -> dict[str, float]:
    rates = {
      f"{name}_per_second": getattr(self._work, name) / seconds
      for name in ("samples", "images", "tokens")
    }
    if self._peak:
      rates["mfu"] = self._work.flops / seconds / self._peak
    return rates
