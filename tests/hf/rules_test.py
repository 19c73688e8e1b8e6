import jax
import ml_dtypes
import numpy as np
import pytest

from genrec_jax.core import tree
from genrec_jax.core.errors import UserError
from genrec_jax.hf import lazy_array, rules
from tests.hf.tiny_janus import values

TABLE = (
  *rules.conv("stem", "patches"),
  *rules.linear("layers.{l}.fc", "layers/fc"),
  *rules.norm("norm", "norm", bias=False),
  *rules.embedding("tokens", "tokens"),
  rules.Rule("scale", "scale", "same"),
)
SHAPES = {
  "patches": {"kernel": (2, 3, 5, 7), "bias": (7,)},
  "layers": {"fc": {"kernel": (3, 4, 6), "bias": (3, 6)}},
  "norm": {"scale": (6,)},
  "tokens": {"embedding": (8, 6)},
  "scale": (),
}
HF_SHAPES = {
  "stem.weight": (7, 5, 2, 3),
  "stem.bias": (7,),
  **{f"layers.{i}.fc.weight": (6, 4) for i in range(3)},
  **{f"layers.{i}.fc.bias": (6,) for i in range(3)},
  "norm.weight": (6,),
  "tokens.weight": (8, 6),
  "scale": (),
}


def _expected(dtype=np.float32):
  return tree.unflatten(
    {
      path: jax.ShapeDtypeStruct(shape, dtype)
      for path, shape in tree.flatten(SHAPES).items()
    }
  )


def _tensors(dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(dtype)
    for name, shape in HF_SHAPES.items()
  }


def test_layouts():
  tensors = _tensors()
  params = values(rules.to_params(TABLE, tensors, _expected()))
  assert not tree.diff(_expected(), params)
  for h, w, i, o in ((0, 0, 0, 0), (1, 2, 4, 6), (0, 2, 3, 1)):
    assert (
      params["patches"]["kernel"][h, w, i, o]
      == tensors["stem.weight"][o, i, h, w]
    )
  np.testing.assert_array_equal(
    params["layers"]["fc"]["kernel"][2], tensors["layers.2.fc.weight"].T
  )
  np.testing.assert_array_equal(
    params["tokens"]["embedding"], tensors["tokens.weight"]
  )
  assert params["scale"] == tensors["scale"]


@pytest.mark.parametrize(
  "dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str
)
def test_there_and_back_is_bit_identical(dtype):
  tensors = _tensors(dtype)
  stored = rules.to_params(TABLE, tensors, _expected())
  params = values(stored)  # held in float32
  back = rules.to_hf(TABLE, jax.tree.map(jax.numpy.asarray, params))
  assert back.keys() == tensors.keys()
  for name, value in tensors.items():
    assert back[name].shape == value.shape
    found = np.asarray(back[name]).astype(dtype)
    assert found.tobytes() == value.tobytes(), name


@pytest.mark.parametrize("rows", [1, 100])
def test_slices_are_those_of_the_whole(rows, monkeypatch):
  monkeypatch.setattr(lazy_array, "CHUNK_BYTES", rows)
  stored = rules.to_params(TABLE, _tensors(), _expected())
  rng = np.random.default_rng(0)
  for name, leaf in tree.flatten(stored).items():
    whole = tree.flatten(values(stored))[name]
    for _ in range(5):
      ends = [sorted(rng.integers(0, n + 1, 2)) for n in leaf.shape]
      index = tuple(slice(*end) for end in ends)
      part = leaf.read(index, ml_dtypes.bfloat16)
      assert part.dtype == ml_dtypes.bfloat16
      np.testing.assert_array_equal(
        part, whole[index].astype(ml_dtypes.bfloat16), err_msg=name
      )


def test_all_mismatches_in_one_message():
  tensors = _tensors()
  del tensors["norm.weight"]
  tensors["stem.weight"] = np.zeros((7, 5, 3, 3), np.float32)
  for i in range(3):
    tensors[f"layers.{i}.fc.weight"] = np.zeros((6, 9), np.float32)
  tensors["tokens.weight"] = np.zeros((8, 6), np.int64)
  tensors["layers.3.fc.weight"] = np.zeros((6, 4), np.float32)
  tensors["extra"] = np.zeros(2, np.float32)
  with pytest.raises(UserError) as error:
    rules.to_params(TABLE, tensors, _expected())
  assert str(error.value).splitlines()[1:] == [
    "  stem.weight: expected [7, 5, 2, 3], found [7, 5, 3, 3]",
    "  layers.*.fc.weight (3 tensors): expected [6, 4], found [6, 9]",
    "  norm.weight: missing, expected [6]",
    "  tokens.weight: expected a float, found int64",
    "  layers.3.fc.weight: unexpected, [6, 4]",
    "  extra: unexpected, [2]",
  ]


def test_every_mismatch_is_named_however_many():
  tensors = {f"other_{i}": np.zeros(1, np.float32) for i in range(50)}
  with pytest.raises(UserError) as error:
    rules.to_params(TABLE, tensors, _expected())
  for name in (*tensors, "layers.*.fc.bias (3 tensors)", "stem.weight"):
    assert name in str(error.value)


def test_fewer_layers_than_expected():
  tensors = _tensors()
  del tensors["layers.2.fc.weight"]
  with pytest.raises(UserError, match=r"layers\.2\.fc\.weight: missing"):
    rules.to_params(TABLE, tensors, _expected())


def test_ignored_tensors_are_named_in_full():
  tensors = {**_tensors(), "a.position_ids": np.arange(3)}
  rules.to_params(TABLE, tensors, _expected(), ignore=(r"a\.position_ids",))
  with pytest.raises(UserError, match="position_ids: unexpected"):
    rules.to_params(TABLE, tensors, _expected(), ignore=("position_ids",))


def test_a_table_that_does_not_fit_the_model():
  short = TABLE[:-1]
  with pytest.raises(ValueError, match="scale: no rule"):
    rules.to_params(short, _tensors(), _expected())
  with pytest.raises(ValueError, match="scale: 2 rules"):
    rules.to_hf((*TABLE, TABLE[-1]), _expected())
  more = (*TABLE, rules.Rule("b", "b", "same"))
  with pytest.raises(ValueError, match="b: no parameter"):
    rules.to_hf(more, _expected())


def test_prefixed():
  nested = rules.prefixed(TABLE, "model.part.", "part/")
  assert nested[0] == rules.Rule(
    "model.part.stem.weight", "part/patches/kernel", "conv"
  )
  tensors = {f"model.part.{k}": v for k, v in _tensors().items()}
  params = values(rules.to_params(nested, tensors, {"part": _expected()}))
  back = rules.to_hf(nested, params)
  assert back.keys() == tensors.keys()
