"""A run of a step that is stopped and goes on, by the real loop and files."""

from collections.abc import Callable
from typing import Any

import grain
import jax

from genrec_jax.core.types import Batch, TrainState
from genrec_jax.runtime import metric_writer
from genrec_jax.train import loop

SCHEDULE = loop.Schedule(
  steps=2, log_every=1, eval_every=0, checkpoint_every=1, keep=1
)


def stopped_after_a_step(
  workdir: Any,
  step: Callable,
  start: Callable[[], tuple[TrainState, Any]],
  batch: Callable[[int], Batch],
) -> tuple[TrainState, list[dict[str, float]]]:
  """Takes two steps, the second of them in another run of the same workdir.

  Args:
    workdir: a folder.
    step: jitted, (state, frozen, batch) -> (state, metrics).
    start: makes the state and what is frozen as they are before training.
    batch: makes the i-th.

  Returns:
    The last state, and the rows of metrics.jsonl.
  """

  def run(batches: int) -> TrainState:
    left = iter(range(batches))

    def put(rows: Batch) -> Batch:
      if next(left, None) is None:
        raise KeyboardInterrupt
      return jax.device_put(rows)

    state, frozen = start()
    inputs = loop.LoopInputs(
      state=state,
      frozen=frozen,
      step=step,
      iterator=iter(grain.MapDataset.range(2).map(batch).to_iter_dataset()),
      put=put,
      evaluate=lambda state, frozen: ({}, None),
      finish=lambda state, frozen, workdir: None,
      headline="loss",
    )
    return loop.run(inputs, SCHEDULE, workdir=str(workdir), config_json="{}")

  try:
    run(1)
  except KeyboardInterrupt:
    # One batch is left, and is not asked for twice.
    return run(1), metric_writer.read(str(workdir))
  raise AssertionError("the run was not stopped")
