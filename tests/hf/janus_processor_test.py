"""Prompts and pixels against transformers' Janus processor."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import transformers
from transformers.models.clip.image_processing_pil_clip import (
  CLIPImageProcessorPil,
)

from genrec_jax import testing
from genrec_jax.core.errors import UserError
from genrec_jax.hf import janus_processor
from genrec_jax.hf.janus_processor import JanusProcessor
from genrec_jax.hf.locate import ASSETS
from genrec_jax.hf.processor import make_prompt, open_image
from tests.hf import tiny_janus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_janus.save(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def processor(folder):
  return JanusProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs():
  return transformers.JanusProcessor(
    tiny_janus.image_processor(),
    testing.janus_tokenizer(),
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
    "generation_kwargs": {},
    "top": {"generation_kwargs": None, "boi_token_id": tiny_janus.BOI},
    "tokenizer": {"generation_kwargs": None},
  }[where]
  tiny_janus.edit(folder / "generation_config.json", **place)
  assert JanusProcessor.from_pretrained(folder).boi_id == tiny_janus.BOI


def test_ids_are_taken_in_the_order_of_transformers(tmp_path):
  folder = tiny_janus.save(tmp_path)
  tiny_janus.edit(
    folder / "generation_config.json",
    pad_token_id=70,
    bos_token_id=None,
    eos_token_id=[1, 71],
  )
  config = json.loads((folder / "config.json").read_text())
  # A tokenizer that names no BOS: else it would contradict 72.
  tiny_janus.edit(folder / "tokenizer_config.json", bos_token=None)
  text = config["text_config"] | {"bos_token_id": 72, "pad_token_id": 73}
  tiny_janus.edit(folder / "config.json", text_config=text)
  processor = JanusProcessor.from_pretrained(folder)
  assert processor.pad_id == 70
  assert processor.bos_id == 72
  assert processor.end_ids == (1, 71)
  (folder / "generation_config.json").unlink()
  processor = JanusProcessor.from_pretrained(folder)
  assert processor.pad_id == 73
  assert processor.end_ids == (testing.EOS,)
  assert processor.max_positions == 256


def test_ids_that_contradict_each_other_are_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  tiny_janus.edit(folder / "config.json", image_token_id=9)
  tiny_janus.edit(
    folder / "generation_config.json", generation_kwargs={"boi_token_id": 8}
  )
  with pytest.raises(UserError) as error:
    JanusProcessor.from_pretrained(folder)
  assert "'<image_placeholder>' is 3 in the tokenizer and 9" in str(error.value)
  assert "'<begin_of_image>' is 4 in the tokenizer and 8" in str(error.value)


def test_a_tokenizer_without_image_tokens_is_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  tokenizer = json.loads((folder / "tokenizer.json").read_text())
  names = ("<begin_of_image>", "<end_of_image>", "<image_placeholder>")
  tokenizer["added_tokens"] = [
    token
    for token in tokenizer["added_tokens"]
    if token["content"] not in names
  ]
  for name in names:
    tokenizer["model"]["vocab"].pop(name, None)
  (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
  settings = json.loads((folder / "tokenizer_config.json").read_text())
  settings = {k: v for k, v in settings.items() if v not in names}
  settings.pop("extra_special_tokens", None)
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  with pytest.raises(UserError) as error:
    JanusProcessor.from_pretrained(folder)
  for name in names:
    assert f"its tokenizer has no token {name!r}" in str(error.value)
  assert str(folder) in str(error.value)


def test_text_prompts_are_those_of_transformers(processor, theirs):
  text = "large red striped circle on sand"
  expected = theirs(
    text=[f"<|User|>: {text}\n\n<|Assistant|>:"], generation_mode="image"
  )["input_ids"][0]
  assert processor.text_prompt_ids(text) == list(expected)
  assert processor.prompt_ids([], text) == list(expected)


def test_prompts_with_a_history_are_those_of_transformers(processor, theirs):
  placeholder = testing.SPECIAL_TOKENS["image_token"]
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


def test_special_tokens_in_a_text_stand_for_nothing(processor):
  title = "a <image_placeholder> in <begin_of_image> disguise"
  ids = processor.prompt_ids([title], title)
  assert ids.count(tiny_janus.IMAGE) == tiny_janus.PATCHES
  assert ids.count(tiny_janus.BOI) == 2
  assert processor.text_prompt_ids(title).count(tiny_janus.IMAGE) == 0
  ids = processor.question_ids([title], title)
  assert ids.count(tiny_janus.IMAGE) == tiny_janus.PATCHES
  assert ids.count(tiny_janus.BOI) == 1


def test_questions_are_written_as_published_checkpoints_do(processor):
  def written(titles, question):
    ids = processor.question_ids(titles, question)
    assert ids[0] == tiny_janus.BOS
    text = processor.tokenizer.decode(ids[1:])
    return text.replace(
      "<begin_of_image>"
      + "<image_placeholder>" * tiny_janus.PATCHES
      + "<end_of_image>",
      "[]",
    )

  end = "\n\n<|Assistant|>:"
  assert written([], " Hi? ") == f"<|User|>: Hi?{end}"
  assert written([""], "What?") == f"<|User|>: []\nWhat?{end}"
  assert written(["", ""], "What? ") == f"<|User|>: []\n\n[]\nWhat?{end}"
  assert written([" a ", "b"], "And?") == (
    f"<|User|>: a \n[]\nb\n[]\nAnd?{end}"
  )


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("file", [None, "chat_template.jinja", "json"])
def test_questions_are_those_of_transformers(tmp_path, file, system):
  folder = tiny_janus.save(tmp_path)
  template = janus_processor.CHAT
  if file:
    template = (
      "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:"
      "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
      "(<image_placeholder>){% else %}{{ c['text'] }}{% endif %}{% endfor %}"
      "{% endfor %}{% if add_generation_prompt %} so:{% endif %}"
    )
  if file == "json":
    legacy = json.dumps({"chat_template": template})
    (folder / "chat_template.json").write_text(legacy)
  elif file:
    (folder / file).write_text(template)
  settings = {"use_default_system_prompt": system}
  (folder / "processor_config.json").write_text(json.dumps(settings))
  theirs = transformers.JanusProcessor(
    tiny_janus.image_processor(),
    testing.janus_tokenizer(),
    chat_template=template,
    use_default_system_prompt=system,
    num_image_tokens=tiny_janus.PATCHES,
  )
  content = [
    {"type": "text", "text": "red cross"},
    {"type": "image", "image": picture(20, 20)},
    {"type": "image", "image": picture(20, 30)},
    {"type": "text", "text": "Which is red? "},
  ]
  if file and system:  # theirs would then begin with BOS twice
    template = template.removeprefix("{{ bos_token }}")
  expected = theirs.apply_chat_template(
    [{"role": "user", "content": content}],
    chat_template=template,
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
  )["input_ids"]
  processor = JanusProcessor.from_pretrained(folder)
  found = processor.question_ids(["red cross", ""], "Which is red? ")
  assert found == list(np.asarray(expected).reshape(-1))


@pytest.mark.parametrize("template", ["no places", "{{ nothing.at.all }}"])
def test_a_template_without_images_is_refused(processor, template):
  other = dataclasses.replace(processor, chat_template=template)
  with pytest.raises(UserError, match="the chat template of this checkpoint"):
    other.question_ids([""], "What?")


def test_the_bundled_models_prompts_are_those_of_transformers():
  folder = ASSETS / "tiny_sft"
  theirs = transformers.JanusProcessor(
    tiny_janus.image_processor(),
    transformers.AutoTokenizer.from_pretrained(folder),
    chat_template=janus_processor.CHAT,
    num_image_tokens=16,
  )
  content = [{"type": "text", "text": "large red circle "}]
  (text,) = theirs.apply_chat_template(
    [[{"role": "user", "content": content}]], add_generation_prompt=True
  )
  expected = theirs(text=[text], generation_mode="image")["input_ids"][0]
  ours = JanusProcessor.from_pretrained(folder)
  assert ours.text_prompt_ids("large red circle ") == list(expected)


@pytest.mark.parametrize(
  "size", [(20, 20), (40, 20), (13, 31), (300, 7), (7, 301), (5, 5), (64, 63)]
)
def test_pixels_are_those_of_transformers(processor, theirs, size):
  image = picture(*size)
  found = processor.pixels(image)
  assert found.dtype == np.uint8
  assert found.shape == (tiny_janus.SIDE, tiny_janus.SIDE, 3)
  expected = theirs.image_processor(
    image, do_rescale=False, do_normalize=False, return_tensors="np"
  )["pixel_values"][0]
  np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))


def test_crops_are_the_shorter_side_and_the_centre(processor):
  # Sizes at which their rounding of the longer side and of the corner is none.
  side = tiny_janus.SIDE
  theirs = CLIPImageProcessorPil(
    size={"shortest_edge": side},
    crop_size={"height": side, "width": side},
    do_rescale=False,
    do_normalize=False,
  )
  for size in ((40, 60), (60, 40), (20, 30), (20, 20), (50, 50), (10, 15)):
    image = picture(*size)
    found = processor.crop(image)
    assert (found.shape, found.dtype) == ((side, side, 3), np.uint8)
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))
  np.testing.assert_array_equal(  # padded and cropped, a square is one
    processor.crop(picture(50, 50)), processor.pixels(picture(50, 50))
  )


@pytest.mark.parametrize("size", [(13, 31), (31, 13), (5, 900), (4, 5)])
def test_a_crop_of_any_size_is_the_centre_square(processor, size):
  image = PIL.Image.new("RGB", size, (0, 0, 255))
  side, longer = min(size), max(size)
  start = (longer - side) // 2
  corner = (start, 0) if size[0] > size[1] else (0, start)
  image.paste((255, 0, 0), (*corner, corner[0] + side, corner[1] + side))
  found = processor.crop(image)
  assert found.shape == (tiny_janus.SIDE, tiny_janus.SIDE, 3)
  middle = found[5:-5, 5:-5]
  assert (middle == [255, 0, 0]).all()  # no grey bar, nothing of the ends


# Where transformers loses something, transparency or 16 bits, this code does
# not follow it; see data/one_rule_test.
@pytest.mark.parametrize(
  ("mode", "kind"),
  [
    ("1", "png"),
    ("L", "png"),
    ("P", "gif"),
    ("P", "png"),
    ("RGB", "jpeg"),
    ("CMYK", "jpeg"),
  ],
)
def test_opaque_files_of_any_mode_become_what_transformers_makes(
  processor, theirs, tmp_path, mode, kind
):
  path = tmp_path / f"image.{kind}"
  picture(23, 41).convert(mode).save(path)
  check_file(processor, theirs, path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(processor, theirs, tmp_path, orientation):
  image = picture(23, 41)
  exif = PIL.Image.Exif()
  exif[274] = orientation
  path = tmp_path / "image.png"
  image.save(path, exif=exif)
  check_file(processor, theirs, path)
  turned = np.asarray(open_image(path))
  assert turned.shape == ((41, 23, 3) if orientation < 5 else (23, 41, 3))
  assert np.array_equal(turned, image) == (orientation == 1)


def check_file(processor, theirs, path):
  """What `JanusProcessor` makes of a path, `load_image` included."""
  expected = theirs.image_processor(str(path), return_tensors="np")
  found = processor.pixels(open_image(path)) / np.float32(127.5) - 1
  np.testing.assert_allclose(
    found.transpose(2, 0, 1), expected["pixel_values"][0], atol=1e-5
  )


def test_what_is_no_image_is_refused_by_name(tmp_path):
  text, part = tmp_path / "text.png", tmp_path / "part.png"
  text.write_text("no image")
  picture(50, 50).save(part)
  part.write_bytes(part.read_bytes()[:-200])
  for path, message in (
    (text, "text.png cannot be read as an image"),
    (part, "part.png cannot be read as an image"),
    (tmp_path, "cannot be read as an image"),
    (tmp_path / "none.png", "no image .*none.png"),
  ):
    with pytest.raises(UserError, match=message):
      open_image(path)


def test_settings_that_it_does_not_follow_are_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  (file,) = folder.glob("*processor_config.json")
  tiny_janus.edit(file, image_mean=[0.4, 0.5, 0.5], do_pad=False)
  with pytest.raises(UserError) as error:
    JanusProcessor.from_pretrained(folder)
  assert "image_mean is [0.4, 0.5, 0.5]; expected [0.5" in str(error.value)
  assert "do_pad is False; expected True" in str(error.value)


def test_settings_in_a_processor_config_are_read(tmp_path, theirs):
  folder = tiny_janus.save(tmp_path)
  (file,) = folder.glob("*processor_config.json")
  file.unlink()
  theirs.save_pretrained(folder)
  settings = json.loads((folder / "processor_config.json").read_text())
  assert "image_processor" in settings  # transformers 5 puts it here
  assert JanusProcessor.from_pretrained(folder).min_size == 14


def test_a_folder_without_tokenizer_is_refused(tmp_path):
  folder = tiny_janus.save(tmp_path)
  for file in folder.glob("tokenizer*"):
    file.unlink()
  with pytest.raises(UserError, match="cannot read the tokenizer"):
    JanusProcessor.from_pretrained(folder)


def test_transformers_does_not_say_that_torch_is_absent():
  code = (
    "import sys; sys.modules['torch'] = None\n"
    "import genrec_jax.hf.tokenizers, transformers\n"
    "transformers.utils.logging.get_logger('transformers').warning('kept')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  assert "kept" in done.stderr
  assert "PyTorch" not in done.stderr


def test_a_prompt_of_one_user_holds_its_images_in_order(processor):
  images = [PIL.Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
  ids = processor.prompt_ids(["a", "b"], "what")
  prompt = make_prompt(processor, ids, images)
  assert prompt.ids.tolist() == [ids]
  assert prompt.mask.all()
  assert prompt.mask.shape == prompt.ids.shape
  assert prompt.images[0, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
  assert make_prompt(processor, ids, []).images.shape[:2] == (1, 0)
