"""Prompts of the torch tool are ours, whatever a tokenizer adds."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch

from genrec_jax import sampling
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Prompt
from genrec_jax.hf.janus_processor import CHAT, JanusProcessor
from genrec_jax.hf.load import load_generator
from genrec_jax.testing import BOI, BOS, EOS, SPECIAL_TOKENS
from tests.greedy import greedy_codes
from tests.hf import tiny_janus
from tools import hf_inference

TITLES = ["a red cross", "", "blue <image_placeholder> circle"]
# What a tokenizer adds to a text by itself, and changes of its settings.
BOS_TOKEN, EOS_TOKEN = (
  SPECIAL_TOKENS[name] for name in ("bos_token", "eos_token")
)
TOKENIZERS = {
  "BOS": ("{bos} $A", {}),
  "nothing": (None, {}),
  "BOS and end": ("{bos} $A {eos}", {}),
  "end": ("$A {eos}", {}),
  "nothing, and no token is called BOS": (None, {"bos_token": None}),
  "as DeepSeek's": (
    "{bos} $A",
    {
      "tokenizer_class": "LlamaTokenizerFast",
      "backend": None,
      "legacy": True,
      "add_bos_token": True,
      "add_eos_token": False,
      "sp_model_kwargs": {},
    },
  ),
}


def change_tokenizer(folder, template, settings):
  """Makes a folder's tokenizer add what a template says, and no more."""
  file = folder / "tokenizer.json"
  model = tokenizers.Tokenizer.from_file(str(file))
  model.post_processor = None
  if template:
    model.post_processor = tokenizers.processors.TemplateProcessing(
      single=template.format(bos=BOS_TOKEN, eos=EOS_TOKEN),
      special_tokens=[
        (BOS_TOKEN, BOS),
        (EOS_TOKEN, EOS),
      ],
    )
  model.save(str(file))
  written = json.loads(file.read_text())
  assert bool(written["post_processor"]) == bool(template)
  tiny_janus.edit(folder / "tokenizer_config.json", **settings)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_pixels_and_greedy_codes_are_ours(
  folder, tmp_path, image_files, kind
):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  change_tokenizer(tmp_path, *TOKENIZERS[kind])
  ours = load_generator(tmp_path, dtype="float32")
  instruction, text = "Draw the next one.", "large red circle"
  rows = [
    ours.processor.prompt_ids(TITLES, instruction),
    ours.processor.prompt_ids([], text),
  ]
  for row in rows:
    assert row.index(BOS) == 0
    assert row.count(BOS) == 1
    assert EOS not in row
    assert row[-1] == BOI
  model, processor = hf_inference.load(tmp_path)
  seen = hf_inference.open_images(image_files)
  prompts = [
    hf_inference.image_prompt(processor, TITLES, seen, instruction),
    hf_inference.image_prompt(processor, [], [], text),
  ]
  assert [prompt["input_ids"][0].tolist() for prompt in prompts] == rows
  question = hf_inference.question_prompt(processor, TITLES, seen, text)
  expected = ours.processor.question_ids(TITLES, text)
  assert question["input_ids"][0].tolist() == expected
  assert question["attention_mask"].shape == question["input_ids"].shape
  images = np.stack([ours.processor.pixels(image) for image in seen])
  np.testing.assert_allclose(
    prompts[0]["pixel_values"],
    images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1,
    atol=1e-6,
  )

  length, pad = len(rows[0]), ours.processor.pad_id
  prompt = Prompt(
    ids=np.asarray([[pad] * (length - len(r)) + r for r in rows], np.int32),
    mask=np.asarray(
      [[i >= length - len(r) for i in range(length)] for r in rows]
    ),
    images=np.stack([images, np.zeros_like(images)]),
  )
  expected = greedy_codes(ours.model, ours.params, prompt)
  found = [
    hf_inference.sample_codes(
      model,
      one["input_ids"],
      one.get("pixel_values"),
      num=2,
      guidance=5.0,
      greedy=True,
    )
    for one in prompts
  ]
  for row, codes in enumerate(found):
    assert codes.shape == (2, ours.model.image_tokens)
    for one in codes:
      np.testing.assert_array_equal(one, expected[row])
  assert len(np.unique(torch.cat(found))) > 5  # else it would mean little
  decoded = sampling.decode_images(ours.model, ours.params, expected[:, None])
  np.testing.assert_allclose(
    hf_inference.decode_images(model, found[0])[0],
    255 * decoded[0, 0],
    atol=0.6,
  )


NAMED = {"default": CHAT, "rag": "{{ documents }}"}


@pytest.mark.parametrize(
  "place", ["default", "tokenizer_config.json", "chat_template.json", "none"]
)
def test_questions_are_ours_wherever_the_template_is(folder, tmp_path, place):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  if place != "default":
    (tmp_path / "chat_template.jinja").unlink()
  other = CHAT.replace("User", "Somebody")
  if place == "tokenizer_config.json":
    named = [
      {"name": name, "template": template}
      for name, template in (NAMED | {"default": other}).items()
    ]
    tiny_janus.edit(tmp_path / place, chat_template=named)
  elif place == "chat_template.json":
    (tmp_path / place).write_text(json.dumps({"chat_template": other}))
  ours = JanusProcessor.from_pretrained(tmp_path)
  ids = ours.question_ids(["a"], "What?")
  changed = place not in ("default", "none")
  assert ("Somebody" in ours.tokenizer.decode(ids)) == changed
  _, processor = hf_inference.load(tmp_path)
  image = PIL.Image.new("RGB", (20, 20))
  found = hf_inference.question_prompt(processor, ["a"], [image], "What?")
  assert found["input_ids"][0].tolist() == ids


def test_named_templates_without_a_default_are_named(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  (tmp_path / "chat_template.jinja").unlink()
  named = [{"name": "rag", "template": CHAT}, {"name": "tool", "template": ""}]
  tiny_janus.edit(tmp_path / "tokenizer_config.json", chat_template=named)
  ours = JanusProcessor.from_pretrained(tmp_path)
  assert ours.prompt_ids([], "a")  # which needs no template
  with pytest.raises(UserError, match=r"none of its .* default: rag, tool"):
    ours.question_ids([], "What?")
  _, processor = hf_inference.load(tmp_path)
  assert hf_inference.image_prompt(processor, [], [], "a")
  with pytest.raises(ValueError, match="rag, tool"):
    hf_inference.question_prompt(processor, [], [], "What?")
