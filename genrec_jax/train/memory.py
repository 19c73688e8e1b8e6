"""Memory of a policy: an average of its weights, and a reference that moves.

Both are copies of the trained parameters that a state carries and a checkpoint
holds, so that a resumed run goes on with them bit for bit.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax.core.types import PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
  """What of its past a policy keeps.

  Attributes:
    ema_decay: in [0, 1), of the exponential moving average of the weights per
      step, which is evaluated and exported; 0: the weights themselves are.
    reset_reference_every: steps after which the KL's reference becomes the
      policy as it is then; 0: it stays the model that training began with.
  """

  ema_decay: float = 0.0
  reset_reference_every: int = 0

  @classmethod
  def of(cls, rl: Any) -> "Memory":
    """Returns that of a config's section `rl`; None: SFT, which has none."""
    return cls(**{name: rl[name] for name in KEYS}) if rl else cls()

  @property
  def kept(self) -> bool:
    """Whether there is any."""
    return bool(self.ema_decay or self.reset_reference_every)


KEYS = frozenset(field.name for field in dataclasses.fields(Memory))


def begin(
  state: TrainState, memory: Memory, cast: Callable[[PyTree], PyTree]
) -> TrainState:
  """Returns a state with the memory that training begins with.

  Args:
    state: before the first step.
    memory: what is kept.
    cast: to the type that the reference is read in, `trainable.cast_frozen`.
  """

  def copied() -> PyTree:
    return jax.tree.map(jnp.copy, state.params)  # the state is donated

  return dataclasses.replace(
    state,
    ema=copied() if memory.ema_decay else None,
    reference=cast(copied()) if memory.reset_reference_every else None,
  )


def remembering(
  step: Callable, memory: Memory, cast: Callable[[PyTree], PyTree]
) -> Callable:
  """Returns a step that also takes the memory on.

  Args:
    step: (state, frozen, batch) -> (state, metrics), of states without one.
    memory: what is kept; of none the step itself is returned.
    cast: see `begin`.
  """
  if not memory.kept:  # the compiled step has no trace of it
    return step

  def train_step(
    state: TrainState, frozen: PyTree, batch: PyTree
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    if state.reference is not None:  # in place of the one training began with
      frozen = frozen | {"reference": state.reference}
    bare = dataclasses.replace(state, ema=None, reference=None)
    new, metrics = step(bare, frozen, batch)
    ema = reference = None
    if state.ema is not None:
      # In this form a decay near 1 rounds the change, not the average.
      ema = jax.tree.map(
        lambda old, now: old + (1 - memory.ema_decay) * (now - old),
        state.ema,
        new.params,
      )
    if state.reference is not None:
      due = new.step % memory.reset_reference_every == 0
      # Both are there on every step: one program, whatever the step's number.
      reference = jax.tree.map(
        lambda old, now: jnp.where(due, now, old),
        state.reference,
        cast(new.params),
      )
    return dataclasses.replace(new, ema=ema, reference=reference), metrics

  return train_step
