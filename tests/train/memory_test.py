"""Memory of a policy by hand: an average, and a reference that is reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.core.types import TrainState
from genrec_jax.train import memory
from genrec_jax.train.memory import Memory


def half(params):
  return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def step(state, frozen, batch):
  """Adds the batch; its metric is the reference that it saw."""
  assert state.ema is None
  assert state.reference is None
  new = TrainState(
    state.step + 1, {"w": state.params["w"] + batch}, state.opt_state
  )
  return new, {"seen": frozen.get("reference", {"w": jnp.nan})["w"]}


def run(kept, steps):
  state = TrainState(jnp.int32(0), {"w": jnp.float32(1)}, ())
  state = memory.begin(state, kept, half)
  wrapped = jax.jit(memory.remembering(step, kept, half))
  seen = []
  for batch in steps:
    state, metrics = wrapped(state, {"rest": 0}, jnp.float32(batch))
    seen.append(float(metrics["seen"]))
  return state, seen


def test_the_average_by_hand():
  state, _ = run(Memory(ema_decay=0.75), [4.0, -8.0])
  # 1, then 1 + (5 - 1) / 4 = 2, then 2 + (-3 - 2) / 4.
  np.testing.assert_allclose(state.ema["w"], 0.75)
  assert state.params["w"] == -3
  assert state.shown["w"] == 0.75
  assert state.reference is None


def test_the_reference_is_the_policy_of_every_third_step():
  kept = Memory(reset_reference_every=3)
  state, seen = run(kept, [1.0] * 7)
  # 1 at the start, 4 after three steps, 7 after six.
  assert seen == [1, 1, 1, 4, 4, 4, 7]
  assert state.reference["w"].dtype == jnp.bfloat16  # as it is read
  assert state.ema is None
  assert state.shown["w"] == state.params["w"] == 8


def test_without_a_memory_the_step_is_as_it_was():
  assert memory.remembering(step, Memory(), half) is step
  state = TrainState(jnp.int32(0), {"w": jnp.float32(1)}, ())
  begun = memory.begin(state, Memory(), half)
  assert jax.tree.structure(begun) == jax.tree.structure(state)
  assert not Memory().kept


@pytest.mark.parametrize("kept", [Memory(0.9, 0), Memory(0, 2), Memory(0.9, 2)])
def test_copies_are_not_the_parameters_which_are_donated(kept):
  state = TrainState(jnp.int32(0), {"w": jnp.zeros(3)}, ())
  begun = memory.begin(state, kept, lambda params: params)
  for copy in (begun.ema, begun.reference):
    if copy is not None:
      assert copy["w"] is not begun.params["w"]
      assert begun.params["w"].unsafe_buffer_pointer() != (
        copy["w"].unsafe_buffer_pointer()
      )


def test_a_config_s_section_is_read_and_sft_has_none():
  section = {"ema_decay": 0.5, "reset_reference_every": 4, "other": 1}
  assert Memory.of(section) == Memory(0.5, 4)
  assert Memory.of(None) == Memory()
