"""Which of a folder's files counts: the one that transformers reads."""

import json
import shutil

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from genrec_jax.core.errors import UserError
from genrec_jax.hf import load, locate, settings
from genrec_jax.hf.janus_processor import CHAT, JanusProcessor

OWN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}


def write(folder, **files):
  for name, value in files.items():
    path = folder / name.replace("__", "/")
    path.parent.mkdir(exist_ok=True)
    if isinstance(value, dict):
      path.with_suffix(".json").write_text(json.dumps(value))
    else:
      path.with_suffix(".jinja").write_text(value)


MORE = "additional_chat_templates"
NESTED = {"image_processor": OWN | {"do_resize": True}}
NULL = {"image_processor": None}
FLAT = {"image_mean": [0.1, 0.2, 0.3], "rescale_factor": 0.5}


@pytest.mark.parametrize(
  "files",
  [
    {"processor_config": NESTED},
    {"preprocessor_config": FLAT},
    # Not merged: what the first leaves out is a default.
    {"processor_config": NESTED, "preprocessor_config": FLAT},
    {
      "processor_config": {"image_processor": None},
      "preprocessor_config": FLAT,
    },
    {"processor_config": {"x": 1}, "preprocessor_config": FLAT},
  ],
)
def test_image_settings_are_those_of_transformers(tmp_path, files):
  write(tmp_path, **files)
  theirs, _ = CLIPImageProcessorPil.get_image_processor_dict(tmp_path)
  assert settings.image_settings(tmp_path) == theirs


TEMPLATES = {
  "processor_config": {"chat_template": "of the processor"},
  "chat_template": {"chat_template": "of the old file"},
}


@pytest.mark.parametrize(
  ("files", "expected"),
  [
    ({}, None),
    ({"chat_template": "alone"}, "alone"),
    (TEMPLATES, "of the processor"),
    (TEMPLATES | {"processor_config": {}}, "of the old file"),
    ({"chat_template": "one", f"{MORE}__rag": "two"}, "one"),
    ({f"{MORE}__default": "d", f"{MORE}__rag": "two"}, "d"),
  ],
)
def test_the_chat_template_is_that_of_transformers(tmp_path, files, expected):
  write(tmp_path, **files)
  theirs, _ = ProcessorMixin.get_processor_dict(tmp_path)
  found = theirs.get("chat_template")
  if isinstance(found, dict):
    found = found["default"]  # as `apply_chat_template` takes it
  assert found == expected
  assert settings.chat_template(tmp_path, None) == expected
  # Only where the processor has none does the tokenizer's count.
  assert settings.chat_template(tmp_path, "own") == (expected or "own")


def test_two_answers_that_transformers_refuses_are_refused(tmp_path):
  old = {"chat_template": {"chat_template": "x"}}
  write(tmp_path, **old, **{f"{MORE}__rag": "y"})
  with pytest.raises(ValueError, match="conflicting"):
    ProcessorMixin.get_processor_dict(tmp_path)
  with pytest.raises(UserError, match=r"both chat_template\.json and"):
    settings.chat_template(tmp_path, None)


def test_named_templates_of_a_tokenizer(tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(locate.ASSETS / "tiny_sft", folder)
  (folder / "chat_template.jinja").unlink()
  path = folder / "tokenizer_config.json"
  text = json.loads(path.read_text())

  def named(**templates):
    text["chat_template"] = [
      {"name": name, "template": value} for name, value in templates.items()
    ]
    path.write_text(json.dumps(text))
    return JanusProcessor.from_pretrained(folder)

  whole = JanusProcessor.from_pretrained(locate.ASSETS / "tiny_sft")
  expected = whole.question_ids([""], "what?")
  found = named(default=CHAT, tool_use="{{ tools }}")
  assert found.question_ids([""], "what?") == expected
  found = named(rag="{{ x }}", tool_use="{{ tools }}")
  with pytest.raises(UserError, match=r"none of its .* default: rag, "):
    found.question_ids([""], "what?")
  assert found.text_prompt_ids("a cup") == whole.text_prompt_ids("a cup")


def test_clip_takes_mean_and_deviation_of_either_file(tmp_path):
  source = locate.ASSETS / "tiny_clip"
  shutil.copytree(source, tmp_path / "clip")
  flat = tmp_path / "clip" / settings.PREPROCESSOR
  own = json.loads(flat.read_text()) | OWN
  flat.write_text(json.dumps(own))
  expected = load.open_clip(tmp_path / "clip", dtype="float32").model
  np.testing.assert_array_equal(expected.image_std, OWN["image_std"])
  nested = {"image_processor": own}
  (tmp_path / "clip" / settings.PROCESSOR).write_text(json.dumps(nested))
  flat.unlink()
  assert load.open_clip(tmp_path / "clip", dtype="float32").model == expected
  (tmp_path / "clip" / settings.PROCESSOR).unlink()
  with pytest.raises(UserError, match="has neither preprocessor_config"):
    load.open_clip(tmp_path / "clip", dtype="float32")
