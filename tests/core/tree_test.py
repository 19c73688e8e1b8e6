import jax
import jax.numpy as jnp
import pytest

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError

NESTED = {"a": {"kernel": 1, "bias": 2}, "b": {"c": {"kernel": 3}}, "d": 4}
FLAT = {"a/kernel": 1, "a/bias": 2, "b/c/kernel": 3, "d": 4}


def test_flatten_and_unflatten_are_inverse():
  assert tree.flatten(NESTED) == FLAT
  assert tree.unflatten(FLAT) == NESTED
  assert tree.flatten({"a": {}}) == {}


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a")])
def test_unflatten_refuses_a_leaf_that_is_a_branch(paths):
  with pytest.raises(ValueError, match="'a"):
    tree.unflatten(dict.fromkeys(paths))


def test_select_splits_and_merge_joins():
  matched, rest = tree.select(NESTED, ["kernel$", "^d"])
  assert matched == {"a": {"kernel": 1}, "b": {"c": {"kernel": 3}}, "d": 4}
  assert rest == {"a": {"bias": 2}}
  assert tree.merge(matched, rest) == NESTED


def test_select_lists_every_bad_pattern():
  with pytest.raises(UserError) as error:
    tree.select(NESTED, ["^a/", "nothing", "("])
  message = str(error.value)
  assert "'nothing' matches no parameter" in message
  assert "'(' is no regular expression" in message
  assert "a, b, d" in message


def test_merge_refuses_what_overlaps():
  with pytest.raises(ValueError, match="a/kernel"):
    tree.merge(NESTED, {"a": {"kernel": 0}})


def test_diff_lists_every_mismatch():
  expected = {
    "same": jnp.zeros(2),
    "gone": jnp.zeros((2, 3)),
    "shape": jnp.zeros(2),
    "type": jnp.zeros(2),
  }
  actual = {
    "same": jax.ShapeDtypeStruct((2,), jnp.float32),
    "extra": jnp.zeros(1),
    "shape": jnp.zeros(3),
    "type": jnp.zeros(2, jnp.bfloat16),
  }
  assert tree.diff(expected, actual) == [
    "missing gone: expected float32[2,3]",
    "shape: expected float32[2], found float32[3]",
    "type: expected float32[2], found bfloat16[2]",
    "unexpected extra: float32[1]",
  ]
  assert tree.diff(expected, expected) == []
