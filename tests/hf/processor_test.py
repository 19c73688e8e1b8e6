"""Prompts and pixels against transformers' Janus processor."""

import json

import numpy as np
import PIL.Image
import pytest
import transformers

from genrec_jax.core.errors import UserError
from genrec_jax.hf.processor import Processor
from tests.hf import tiny_janus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_janus.save(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def processor(folder):
  return Processor.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs():
  return transformers.JanusProcessor(
    tiny_janus.image_processor(),
    tiny_janus.tokenizer(),
    num_image_tokens=tiny_janus.PATCHES,
  )


def picture(width, height, mode="RGB"):
  rng = np.random.default_rng(width * height)
  # Coarse noise: bicubic resampling must matter, also beyond [0, 255].
  small = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), np.uint8)
  image = PIL.Image.fromarray(small).resize((width, height), 0)
  return image.convert(mode)


def test_ids_come_from_the_checkpoint(processor):
  assert (
    processor.bos_id,
    processor.pad_id,
    processor.image_id,
    processor.boi_id,
    processor.eoi_id,
  ) == (
    tiny_janus.BOS,
    tiny_janus.PAD,
    tiny_janus.IMAGE,
    tiny_janus.BOI,
    tiny_janus.EOI,
  )
  assert processor.num_image_tokens == tiny_janus.PATCHES
  assert processor.image_size == tiny_janus.SIDE


@pytest.mark.parametrize("where", ["generation_kwargs", "top", "tokenizer"])
def test_begin_of_image_is_found_wherever_it_is(tmp_path, where):
  folder = tiny_janus.save(tmp_path)
  place = {
    "generation_kwargs": {"generation_kwargs": {"boi_token_id": 77}},
    "top": {"generation_kwargs": None, "boi_token_id": 77},
    "tokenizer": {"generation_kwargs": None},
  }[where]
  tiny_janus.edit(folder / "generation_config.json", **place)
  expected = tiny_janus.BOI if where == "tokenizer" else 77
  assert Processor.from_pretrained(folder).boi_id == expected


def test_text_prompts_are_those_of_transformers(processor, theirs):
  text = "large red striped circle on sand"
  expected = theirs(
    text=[f"<|User|>: {text}\n\n<|Assistant|>:"], generation_mode="image"
  )["input_ids"][0]
  assert processor.text_prompt_ids(text) == list(expected)
  assert processor.prompt_ids([], text) == list(expected)


def test_prompts_with_a_history_are_those_of_transformers(processor, theirs):
  placeholder = tiny_janus.TOKENS["image_token"]
  expected = theirs(
    text=[
      f"<|User|>: red cross{placeholder}\nblue circle{placeholder}\n"
      "Draw the next item.\n\n<|Assistant|>:"
    ],
    images=[picture(20, 20), picture(20, 20)],
    generation_mode="image",
  )["input_ids"][0]
  found = processor.prompt_ids(
    ["red cross", "blue circle"], "Draw the next item."
  )
  assert found == list(expected)
  assert found.count(tiny_janus.IMAGE) == 2 * tiny_janus.PATCHES
  assert found[0] == tiny_janus.BOS
  assert found[-1] == tiny_janus.BOI


def test_special_tokens_in_a_title_stand_for_nothing(processor):
  title = "a <image_placeholder> in <begin_of_image> disguise"
  ids = processor.prompt_ids([title], "Draw.")
  assert ids.count(tiny_janus.IMAGE) == tiny_janus.PATCHES
  assert ids.count(tiny_janus.BOI) == 2
  assert processor.text_prompt_ids(title).count(tiny_janus.IMAGE) == 0


@pytest.mark.parametrize(
  "size", [(20, 20), (40, 20), (13, 31), (300, 7), (5, 5), (64, 63)]
)
def test_pixels_are_those_of_transformers(processor, theirs, size):
  image = picture(*size)
  expected = theirs.image_processor(
    image, do_rescale=False, do_normalize=False, return_tensors="np"
  )["pixel_values"][0]
  found = processor.pixels(image)
  assert found.dtype == np.uint8
  assert found.shape == (tiny_janus.SIDE, tiny_janus.SIDE, 3)
  np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_colour_modes_become_rgb(processor, mode):
  assert processor.pixels(picture(20, 30, mode)).shape == (20, 20, 3)


def test_settings_that_it_does_not_follow_are_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  (file,) = folder.glob("*processor_config.json")
  tiny_janus.edit(file, image_mean=[0.4, 0.5, 0.5], do_pad=False)
  with pytest.raises(UserError) as error:
    Processor.from_pretrained(folder)
  assert "image_mean is [0.4, 0.5, 0.5]; expected [0.5" in str(error.value)
  assert "do_pad is False; expected True" in str(error.value)


def test_settings_in_a_processor_config_are_read(tmp_path, theirs):
  folder = tiny_janus.save(tmp_path)
  (file,) = folder.glob("*processor_config.json")
  file.unlink()
  theirs.save_pretrained(folder)
  settings = json.loads((folder / "processor_config.json").read_text())
  assert "image_processor" in settings  # transformers 5 puts it here
  assert Processor.from_pretrained(folder).min_size == 14


def test_a_folder_without_tokenizer_is_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  for file in folder.glob("tokenizer*"):
    file.unlink()
  with pytest.raises(UserError, match="cannot read the tokenizer"):
    Processor.from_pretrained(folder)
