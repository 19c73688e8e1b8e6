"""Emu3's prompts against transformers' processor, and what it refuses."""

import numpy as np
from PIL import Image
import pytest
import torch

from genrec_jax.core.errors import UserError
from genrec_jax.hf.processor import make_prompt
from tests.hf import tiny_emu3

TITLES = ["red cross", "", "circle on sand"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
  folder = tiny_emu3.save(tmp_path_factory.mktemp("emu3") / "model")
  return tiny_emu3.opened(folder).processor


def opened_images():
  """Returns squares of the size at which they are read."""
  return [Image.fromarray(x) for x in tiny_emu3.random_images(3)]


def test_a_text_prompt_is_that_of_transformers(ours):
  theirs = tiny_emu3.processor()
  expected = theirs(
    text=["a red cross"],
    return_for_image_generation=True,
    ratio="1:1",
    image_area=tiny_emu3.SIZE**2,
    return_tensors="np",
  )
  ids = ours.text_prompt_ids(" a red cross ")
  assert ids == expected["input_ids"][0].tolist()
  assert tuple(ids[-len(ours.image_begin) :]) == ours.image_begin
  assert ours.prompt_ids([], "a red cross") == ids


def test_a_history_is_read_as_transformers_reads_it(ours):
  text = (
    "You are a helpful assistant. USER: red cross<image>\n<image>\n"
    "circle on sand<image>\ndraw ASSISTANT:"
  )
  expected = tiny_emu3.processor()(
    text=[text], images=[opened_images()], return_tensors="np"
  )
  assert expected["image_sizes"].tolist() == [[16, 16]] * 3
  ids = ours.prompt_ids(TITLES, "draw")
  begin = ours.image_begin
  assert ids == [*expected["input_ids"][0].tolist(), *begin]
  prompt = make_prompt(ours, ids, opened_images())
  assert prompt.images.shape == (1, 3, 16, 16, 3)
  np.testing.assert_allclose(
    tiny_emu3.pixel_values(prompt.images[0]),
    torch.tensor(expected["pixel_values"]),
    atol=1e-6,
  )
  # What an image costs, said where a context is too short.
  fewer = ours.prompt_ids(TITLES[:2], "draw")
  text = len(ours.tokenizer.encode("circle on sand\n"))
  assert len(ids) - len(fewer) == ours.prompt_tokens + text
  assert ours.num_image_tokens == 20


def test_a_question_is_what_the_chat_template_says(ours):
  ids = ours.question_ids(["red cross"], "what is this")
  text = (
    "You are a helpful assistant. USER: red cross<image>what is this ASSISTANT:"
  )
  expected = tiny_emu3.processor()(
    text=[text], images=[opened_images()[:1]], return_tensors="np"
  )
  assert ids == expected["input_ids"][0].tolist()
  assert ours.end_ids == (2,)
  assert ours.answers


def test_a_model_that_does_not_answer_says_so(tmp_path):
  folder = tiny_emu3.save(tmp_path / "gen", chat=None)
  processor = tiny_emu3.opened(folder).processor
  assert processor.text_prompt_ids("red")
  assert not processor.answers
  with pytest.raises(UserError, match=r"no chat template.*as Emu3-Gen is"):
    processor.question_ids([], "what is this")


def test_special_tokens_in_titles_are_taken_out(ours):
  ids = ours.prompt_ids(["a <image> b<|image start|>"], "<|extra_204|>draw")
  assert ids.count(ours.image_id) == 6  # of the one image
  assert ids.count(ours.boi_id) == 2
  assert 2 not in ids


def test_wide_images_are_cropped_not_padded(ours):
  wide = Image.new("RGB", (60, 20), "white")
  read, cropped = ours.pixels(wide), ours.crop(wide)
  assert read.shape == (16, 16, 3)
  assert cropped.shape == (32, 32, 3)
  assert (read == 255).all()
  assert (cropped == 255).all()


def test_files_of_another_model_are_refused(tmp_path):
  folder = tiny_emu3.save(tmp_path / "model")
  tiny_emu3.edit(
    folder / "processor_config.json",
    image_processor={"do_normalize": False, "rescale_factor": 1.0},
  )
  tiny_emu3.edit(folder / "generation_config.json", bos_token_id=7)
  with pytest.raises(UserError) as error:
    tiny_emu3.opened(folder)
  for part in (
    "do_normalize is False; expected True",
    "rescale_factor is 1.0",
    "bos_token_id is 1 in the tokenizer and 7 in",
  ):
    assert part in str(error.value)
