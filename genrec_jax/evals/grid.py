"""The image grid of a mid-run evaluation: users as rows."""

from collections.abc import Sequence

import numpy as np

from genrec_jax.evals.held_out import HeldOutBatch

_EMPTY = np.uint8(236)  # light grey: there is no item
_GAP = 2  # pixels between images


def grid(batches: Sequence[HeldOutBatch], samples: np.ndarray) -> np.ndarray:
  """Returns users as rows of images: history | samples | real next item.

  Args:
    batches: held-out users.
    samples: [U, G, h, w, 3] uint8 of the first U users.

  Returns:
    uint8 [H, W, 3]; history slots without an item are light grey.
  """
  history = np.concatenate(
    [
      np.where(
        held.batch.history_mask[: held.count, :, None, None, None],
        held.batch.history[: held.count],
        _EMPTY,
      )
      for held in batches
    ]
  )  # [users, N, h, w, 3]
  future = np.concatenate([held.batch.future[: held.count] for held in batches])
  parts = [history[: len(samples)], samples, future[: len(samples), :1]]
  lines = []
  for row in range(len(samples)):
    tiles = []
    for part in parts:
      for image in part[row]:
        tiles += [image, _blank(image.shape[0], _GAP)]
      # The three parts stand three gaps apart, to be seen as such.
      tiles.append(_blank(image.shape[0], 2 * _GAP))
    line = np.concatenate(tiles[:-2], axis=1)  # [h, W, 3]
    lines += [line, _blank(_GAP, line.shape[1])]
  return np.concatenate(lines[:-1], axis=0)


def _blank(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), 255, np.uint8)
