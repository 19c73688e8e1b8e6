"""Small data sets, and a processor like hf.processor's."""

import duckdb
import numpy as np
from PIL import Image, ImageOps
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import histories, synthetic, world
from genrec_jax.ingest import image_store, job

BOS, PAD, BOI, EOI, IMAGE, NEWLINE = range(6)
IMAGE_TOKENS = 4
INSTRUCTION = "what comes next"


def _tokenizer(max_length):
  words = ["<s>", "<pad>", "<boi>", "<eoi>", "<image>", "<n>", "on", "<unk>"]
  words += [word for words in world.ATTRIBUTES.values() for word in words]
  words += INSTRUCTION.split()
  vocabulary = {word: i for i, word in enumerate(words)}
  model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
  model.pre_tokenizer = pre_tokenizers.Whitespace()
  return PreTrainedTokenizerFast(
    tokenizer_object=model,
    pad_token="<pad>",
    unk_token="<unk>",
    model_max_length=max_length,
  )


class FakeProcessor:
  """The part of hf.processor.Processor that the pipeline uses."""

  pad_id, image_size = PAD, 32
  num_image_tokens, max_positions = IMAGE_TOKENS, 1000

  def __init__(self):
    self.tokenizer = _tokenizer(10_000)

  def prompt_ids(self, titles, instruction):
    ids = [BOS]
    for title in titles:
      ids += self.tokenizer(title)["input_ids"]
      ids += [BOI, *[IMAGE] * IMAGE_TOKENS, EOI, NEWLINE]
    return [*ids, *self.tokenizer(instruction)["input_ids"], BOI]

  def pixels(self, image):
    assert image.mode == "RGB"
    return np.asarray(ImageOps.pad(image, (32, 32), color=(127, 127, 127)))

  def crop(self, image):
    return np.asarray(ImageOps.fit(image, (32, 32)))


@pytest.fixture(scope="session")
def processor():
  return FakeProcessor()


@pytest.fixture(scope="session")
def clip_tokenizer():
  return _tokenizer(12)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "tiny"
  return dataset_lib.load(
    synthetic.build(
      path, num_users=30, held_out=10, num_events=12, future_horizon=2
    )
  )


def _make_work(folder, lengths, num_items=40, future_horizon=1):
  """Returns an import of users with so many events, as if it had been read.

  User u's k-th item is (5 u + k) mod `num_items`; ids have leading zeros.
  """
  pictures = folder / "pictures"
  pictures.mkdir(parents=True)
  ids = [f"{item:03d}" for item in range(num_items)]
  for item in ids:
    colour = (5 * int(item), 255 - 5 * int(item), 128)
    Image.new("RGB", (12 + int(item), 20), colour).save(
      pictures / f"{item}.png"
    )
  work = folder / "work"
  image_store.encode_all(
    pictures, [(i, f"{i}.png") for i in ids], work / job.IMAGES, 32, 1
  )
  users, events = [], []
  for user, length in enumerate(lengths):
    points = histories.split_points(length, future_horizon)
    users.append((f"u{user}", len(events), length, *map(int, points)))
    events += [
      (user, (5 * user + k) % num_items, 1000 * k) for k in range(length)
    ]
  with duckdb.connect() as connection:
    for table, columns, rows in (
      (
        job.ITEMS,
        "id VARCHAR, title VARCHAR, image VARCHAR",
        [(i, f"red circle {i}", f"{i}.png") for i in ids],
      ),
      (
        job.USERS,
        "id VARCHAR, first BIGINT, length BIGINT, train_end BIGINT, "
        "validation_start BIGINT, test_start BIGINT",
        users,
      ),
      (
        job.EVENTS,
        "user_row BIGINT, item_row BIGINT, timestamp BIGINT",
        events,
      ),
    ):
      places = ", ".join("?" * len(rows[0]))
      connection.execute(f"CREATE OR REPLACE TABLE t ({columns})")
      connection.executemany(f"INSERT INTO t VALUES ({places})", rows)
      connection.execute(f"COPY t TO '{work / table}' (FORMAT parquet)")
  return job.Work(work, {"k_core": 5, "image_size": 32})


@pytest.fixture(scope="session")
def make_work():
  return _make_work
