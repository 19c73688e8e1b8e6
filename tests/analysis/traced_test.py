"""A traced step's phases are all of it, and none of what is not there."""

import jax
import jax.numpy as jnp
import pytest

from genrec_jax.analysis import traced
from genrec_jax.core.errors import UserError
from genrec_jax.train import profile


def step(x):
  """Much in one phase, little in another."""
  with jax.named_scope("prefill"):
    x = jnp.tanh(x @ x / len(x))
  with jax.named_scope("decode"):
    x = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x / len(x)), x)
  return x.sum()


def test_phases_add_up_to_the_step(tmp_path):
  folder = tmp_path / "profile" / "step_3"
  value = profile.take(jax.jit(step), (jnp.ones((300, 300)),), folder)
  assert value == pytest.approx(float(step(jnp.ones((300, 300)))))
  seconds = traced.phases(folder)
  assert {"prefill", "decode"} <= set(seconds)
  assert seconds["decode"] > seconds["prefill"] > 0
  assert list(seconds)[:2] == ["prefill", "decode"]
  table = traced.text({"prefill": 1.0, "decode": 3.0}).splitlines()
  assert table[2].split() == ["decode", "3.000", "75.0%"]
  assert table[3].split() == ["all", "4.000", "100.0%"]


def test_another_folder_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"config\.train\.profile=20"):
    traced.phases(tmp_path)
  compiled = jax.jit(step).lower(jnp.ones((3, 3))).compile()
  (tmp_path / profile.PROGRAM).write_text(compiled.as_text())
  with pytest.raises(UserError, match="without instructions"):
    traced.phases(tmp_path)
