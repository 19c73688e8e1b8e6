"""Both tools generate and answer alike with Emu3, and refuse the same."""

import json

import numpy as np
from PIL import Image
import pytest
import torch

from genrec_jax.hf import load
from genrec_jax.hf.export import export_checkpoint
from tests.hf import tiny_emu3
from tests.tools.process import run_tool
from tools import hf_inference
from tools.hf_inference import command, emu3, emu3_prompts

TITLES = "--titles=a red <image> cross|"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with an export of ours, and two images."""
  place = tmp_path_factory.mktemp("emu3")
  folder = tiny_emu3.save(place / "model")
  tiny_emu3.edit(folder / "config.json", image_size=24, read_size=16)
  opened = load.open_generator(folder, dtype="float32")
  export_checkpoint(place / "export", opened, sampling={"guidance": 3.0})
  rng = np.random.default_rng(0)
  for name, (width, height) in {"a": (31, 40), "b": (50, 20)}.items():
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(place / f"{name}.png")
  return place


def arguments(place, out, *more, model="export"):
  return [
    f"--model={place / model}",
    f"--history={place / 'a.png'},{place / 'b.png'}",
    TITLES,
    *(f"--out={place / out}", f"--dump={place / out}"),
    "--greedy",
    *more,
  ]


def arrays(folder):
  return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def by_both(place, name, *more):
  """Runs both tools; returns their arrays, and what generate.py says."""
  command.main(arguments(place, f"torch{name}", *more))
  status, said, error = run_tool(
    "generate.py", *arguments(place, f"jax{name}", *more)
  )
  assert status == 0, error
  return arrays(place / f"torch{name}"), arrays(place / f"jax{name}"), said


def test_both_generate_the_same_after_a_history(place):
  theirs, ours, said = by_both(place, "", "--num=2")
  assert "2 images of 9 codes" in said
  assert "guidance 3" in said
  assert theirs.keys() == ours.keys()
  np.testing.assert_array_equal(theirs["prompt_ids"], ours["prompt_ids"])
  np.testing.assert_array_equal(theirs["codes"], ours["codes"])
  assert len(np.unique(ours["codes"])) > 2
  np.testing.assert_allclose(
    theirs["pixel_values"], ours["pixel_values"], atol=1e-6
  )
  np.testing.assert_allclose(
    theirs["images"].astype(int), ours["images"], atol=1
  )
  assert ours["images"].shape == (2, 24, 24, 3)
  for out in ("torch", "jax"):
    with Image.open(place / out / "sheet.png") as sheet:
      assert min(sheet.size) >= 48


def test_both_write_the_same_titles_and_generate_the_same_after_them(place):
  more = ("--mode=item", "--num=1", "--max_tokens=12")
  theirs, ours, _ = by_both(place, "_item", *more)
  assert theirs.keys() == ours.keys()
  assert ours["title_ids"].shape == (1, 12)
  np.testing.assert_array_equal(theirs["title_ids"], ours["title_ids"])
  np.testing.assert_array_equal(theirs["codes"], ours["codes"])
  for out in ("torch_item", "jax_item"):
    (line,) = (place / out / "titles.txt").read_text().splitlines()
    assert line
  # The image is generated after the title, and so is another one.
  without = arrays(place / "torch")["codes"][:1]
  assert (without != ours["codes"]).any()


def test_titles_hold_no_codes_however_likely_these_are(place):
  model, processor = hf_inference.load(place / "export")
  prompt = emu3_prompts.image_prompt(processor, [], [], "draw what comes next")
  with torch.no_grad():
    model.lm_head.weight[emu3.code_tokens(model)] *= 100
  (words,), _ = emu3.sample_items(
    model,
    prompt["input_ids"],
    processor=processor,
    max_tokens=5,
    num=1,
    greedy=True,
  )
  assert words
  assert not {*words} & {*emu3.never(model, processor)}


def test_both_answer_a_question_alike(place):
  more = ("--mode=text", "--prompt=what is this", "--max_tokens=6")
  theirs, ours, _ = by_both(place, "_text", *more)
  np.testing.assert_array_equal(theirs["prompt_ids"], ours["prompt_ids"])
  np.testing.assert_array_equal(theirs["answer_ids"], ours["answer_ids"])


def test_both_refuse_a_question_to_a_model_that_only_generates(place):
  tiny_emu3.save(place / "gen", chat=None)
  more = ("--mode=text", "--prompt=what is this")
  with pytest.raises(SystemExit, match=r"no chat template.*as Emu3-Gen is"):
    command.main(arguments(place, "no", *more, model="gen"))
  status, _, error = run_tool(
    "generate.py", *arguments(place, "no", *more, model="gen")
  )
  assert status == 1
  assert error.startswith("error: this checkpoint has no chat template")
  assert not (place / "no").exists()


def test_both_say_what_a_context_too_short_is_filled_with(place):
  tiny_emu3.save(place / "short")
  path = place / "short/config.json"
  text = json.loads(path.read_text())["text_config"]
  tiny_emu3.edit(path, text_config=text | {"max_position_embeddings": 40})
  message = r"2 images of 13\) and an answer of up to 20 do not fit the 40"
  with pytest.raises(SystemExit, match=message):
    command.main(arguments(place, "no", model="short"))
  status, _, error = run_tool(
    "generate.py", *arguments(place, "no", model="short")
  )
  assert status == 1
  assert "2 images of 13) and an answer of up to 20 do not fit the 40" in error
