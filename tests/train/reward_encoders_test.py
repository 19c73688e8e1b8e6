"""Encoders and questions of rewards: what is asked, and who cannot answer."""

import dataclasses
import json
import shutil

import pytest

from configs import rl as rl_config
from genrec_jax import rewards
from genrec_jax.core.errors import UserError
from genrec_jax.hf import load
from genrec_jax.hf.emu3_processor import Emu3Processor
from genrec_jax.hf.janus_processor import JanusProcessor
from genrec_jax.hf.locate import ASSETS
from genrec_jax.train import build, reward_encoders, rl

CLIP = load.open_clip("tiny_clip", dtype="float32")
QUESTION = "What is it?"


def sections(**weights):
  found = {name: {"weight": 0.0} for name in rewards.OF_TITLES}
  found |= {name: {"weight": weight} for name, weight in weights.items()}
  return found | {"eyes": found["eyes"] | {"question": QUESTION}}


def processor(family):
  if family == "janus":
    return JanusProcessor.from_pretrained(ASSETS / "tiny_sft")
  folder = ASSETS / "tiny_emu3"
  config = json.loads((folder / "config.json").read_text())
  return Emu3Processor.from_pretrained(folder, config)


@pytest.mark.parametrize("family", ["janus", "emu3"])
def test_eyes_are_asked_about_one_image_where_they_have_a_weight(family):
  own = processor(family)
  found = reward_encoders.open_reading(sections(eyes=0.5), own, CLIP)
  words = own.tokenizer.decode(found.question.ids)
  assert words.count(QUESTION) == 1
  assert (
    found.question.ids.count(own.image_id)
    == {
      "janus": own.num_image_tokens,
      "emu3": 4 * 4 + 4,  # and the ends of rows
    }[family]
  )
  assert found.question.end_id == own.end_ids[0]
  found = reward_encoders.open_reading(sections(title=0.5), own, CLIP)
  assert found.question is None
  assert not reward_encoders.open_reading(sections(), own, CLIP)
  assert not reward_encoders.open_reading(None, own, CLIP)


def test_who_was_not_made_to_answer_may_still_write_titles():
  gen = dataclasses.replace(processor("emu3"), chat_template=None)
  found = reward_encoders.open_reading(sections(consistency=0.5), gen, CLIP)
  assert found.question is None


def test_eyes_of_a_checkpoint_that_cannot_answer_are_refused_at_once(
  tmp_path, monkeypatch
):
  gen = shutil.copytree(ASSETS / "tiny_emu3", tmp_path / "gen")
  (gen / "chat_template.jinja").unlink()
  config = rl_config.get_config("debug")
  config.update_from_flattened_dict(
    {
      "model.checkpoint": str(gen),
      "model.answer": "title_image",
      "rewards.eyes.weight": 0.5,
    }
  )
  # Before a weight is read, or even laid out.
  monkeypatch.setattr(build, "make_plan", None)
  message = (
    r"^rewards\.eyes\.weight=0\.5 asks the generator about its images, but this"
    r" checkpoint has no chat template, .*BAAI/Emu3-Chat-hf; or give"
    r" --config\.rewards\.eyes\.weight=0$"
  )
  with pytest.raises(UserError, match=message):
    rl.run(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
