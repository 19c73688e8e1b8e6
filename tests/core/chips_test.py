"""Peaks of known chips, by the name that JAX gives them."""

from genrec_jax.core import chips


def test_a_kind_names_one_chip_or_none():
  kinds = [kind for chip in chips.CHIPS.values() for kind in chip.kinds]
  assert len(kinds) == len(set(kinds))
  assert chips.find("TPU v5 lite") == chips.CHIPS["v5e"]
  assert chips.find("NVIDIA H200") == chips.CHIPS["h200"]
  assert chips.find("cpu") is None


def test_a_chip_computes_far_faster_than_it_reads():
  # FLOPs a byte, from which on a product is bound by its arithmetic.
  for chip in chips.CHIPS.values():
    assert 100 < chip.flops / chip.hbm_rate < 600
    assert chip.link_rate < chip.hbm_rate
