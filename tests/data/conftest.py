"""Small data sets and what reads them."""

import dataclasses

import pytest

from genrec_jax import testing
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import stream as stream_lib
from genrec_jax.data import synthetic
from genrec_jax.data.eval_batches import eval_batches
from tests.data import tiny_data


@pytest.fixture(scope="session")
def processor():
  return testing.TinyProcessor()


@pytest.fixture(scope="session")
def clip_tokenizer():
  return testing.word_tokenizer(12)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "tiny"
  return dataset_lib.load(
    synthetic.build(
      path, num_users=30, held_out=10, num_events=12, future_horizon=2
    )
  )


@pytest.fixture
def stream(dataset, processor, clip_tokenizer):
  def make(*, batch_size=8, seed=0, local_rows=None, **spec):
    return stream_lib.train_batches(
      dataset,
      processor,
      clip_tokenizer,
      dataclasses.replace(tiny_data.SPEC, **spec),
      batch_size=batch_size,
      seed=seed,
      local_rows=local_rows,
    )

  return make


@pytest.fixture
def evaluation(dataset, processor, clip_tokenizer):
  def make(**kwargs):
    return eval_batches(
      dataset,
      processor,
      clip_tokenizer,
      tiny_data.SPEC,
      batch_size=4,
      **kwargs,
    )

  return make
