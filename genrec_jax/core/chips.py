"""Chips: what the accelerators that runs are made for can do at best.

Of their makers' data sheets: Google's pages of TPU v5e, v5p and v6e, NVIDIA's
of A100, H100 and H200 (dense, without sparsity).
"""

from typing import NamedTuple


class Chip(NamedTuple):
  """The peaks of one chip."""

  flops: float  # a second, of products of bfloat16
  hbm_rate: float  # bytes a second of its main memory
  link_rate: float  # bytes a second of all its links to other chips together
  kinds: tuple[str, ...]  # how JAX calls it: `device.device_kind`


CHIPS: dict[str, Chip] = {
  "v5e": Chip(197e12, 819e9, 200e9, ("TPU v5 lite", "TPU v5e")),
  "v6e": Chip(918e12, 1640e9, 448e9, ("TPU v6 lite", "TPU v6e")),
  "v5p": Chip(459e12, 2765e9, 600e9, ("TPU v5", "TPU v5p")),
  "a100": Chip(312e12, 2039e9, 600e9, ("NVIDIA A100-SXM4-80GB",)),
  "h100": Chip(989e12, 3350e9, 900e9, ("NVIDIA H100 80GB HBM3",)),
  "h200": Chip(989e12, 4800e9, 900e9, ("NVIDIA H200",)),
}


def find(kind: str) -> Chip | None:
  """Returns the chip of a `device.device_kind`; None: it is not known here."""
  return next((chip for chip in CHIPS.values() if kind in chip.kinds), None)
