import pytest

from genrec_jax.hf import write_model
from tests.hf import saved


@pytest.fixture
def single(tmp_path):
  write_model.write(tmp_path / "model", saved.CONFIG, saved.tensors())
  return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
  write_model.write(
    tmp_path / "sharded", saved.CONFIG, saved.tensors(), max_shard_bytes=100
  )
  return tmp_path / "sharded"
