"""A small prepared data set, and a processor like hf.processor's."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from genrec_jax.data import builders, world

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
    return np.asarray(image.resize((32, 32)))


@pytest.fixture(scope="session")
def processor():
  return FakeProcessor()


@pytest.fixture(scope="session")
def clip_tokenizer():
  return _tokenizer(12)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "tiny"
  return builders.load(
    builders.synthetic(
      path, num_users=30, held_out=10, num_events=12, future_horizon=2
    )
  )
