"""Model-free baselines: what the table's numbers are measured against.

`real_next_item` is the aim; `vq_ceiling` is the same image, encoded and decoded
by the model's image tokenizer: the most that an image made of codes can be;
`random_item` is chance; `copy_last` is what a model gets for repeating instead
of generating.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec_jax.evals import held_out
from genrec_jax.evals.held_out import HeldOutBatch, Rows
from genrec_jax.evals.panel import Panel, on_host
from genrec_jax.evals.scoring import Shown, stacked
from genrec_jax.runtime.distributed import to_host


def items(
  rows: Rows, num_items: int, *, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
  """Returns the items that baselines show to U users.

  Args:
    rows: the users' items by their numbers in the catalogue.
    num_items: of the catalogue.
    num_samples: G, random items per user, with replacement.
    seed: of the random items.

  Returns:
    {baseline: [U, 1] or [U, G] int}, numbers of items; of users without a
    history, prompts of a file, nothing is copied.
  """
  rng = np.random.default_rng(seed)
  users = len(rows.target)
  found = {
    "real_next_item": rows.target[:, None],
    "random_item": rng.integers(num_items, size=(users, num_samples)),
  }
  if all(map(len, rows.history)):
    last = np.asarray([history[-1] for history in rows.history])  # the newest
    found["copy_last"] = last[:, None]
  return found


def vq_ceiling(
  panel: Panel,
  batches: Sequence[HeldOutBatch],
  reconstruct: Callable[[np.ndarray], Any],
  *,
  num_samples: int,
  done: Callable[[int], None] = lambda users: None,
) -> Shown:
  """Returns what users see who are shown the real next item in codes.

  Args:
    panel: the encoders.
    batches: U held-out users.
    reconstruct: uint8 [P, h, w, 3] -> the same, encoded and decoded by the
      model's image tokenizer.
    num_samples: G, of the shape that the panel is compiled for.
    done: called with the number of users of each batch.
  """
  parts = []
  for held in batches:
    real = np.asarray(held.batch.future[:, 0])  # [P, h, w, 3]
    decoded = to_host(reconstruct(real))[:, None]  # uint8 [P, 1, h, w, 3]
    # Repeated to [P, G, ...], the shape that the panel is compiled for.
    repeated = np.repeat(decoded, num_samples, axis=1)
    embeds = on_host(panel.embed_images(repeated))
    shown = Shown(
      {name: values[:, :1] for name, values in embeds.items()},
      held_out.read_attributes(held, decoded),
    )
    parts.append(shown.to(np.arange(held.count)))  # the fill is no user
    done(held.count)
  return stacked(parts)
