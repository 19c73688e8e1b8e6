"""The tool from the command line: what it writes, and what it refuses."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from genrec_jax import testing
from genrec_jax.core import tree
from genrec_jax.hf import janus_processor
from genrec_jax.hf import processor as processor_lib
from genrec_jax.hf.janus_processor import JanusProcessor
from tests.hf import tiny_janus
from tests.tools import bad_flags
from tests.tools.process import own_words

ROOT = pathlib.Path(__file__).parents[2]
TOOL = str(ROOT / "tools" / "generate.py")
TITLES = ["a red, 'large' cross", "", "blue <image_placeholder> \u4e2d circle"]
# Runs many commands in one process, which may not reach any network.
DRIVER = """
import contextlib, importlib.util, io, json, socket, sys
def refuse(*args, **kwargs):
  raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from absl import flags
spec = importlib.util.spec_from_file_location("generate", sys.argv[1])
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
found = []
for argv in json.load(sys.stdin):
  for name in flags.FLAGS:
    flags.FLAGS[name].unparse()
  out, err, status = io.StringIO(), io.StringIO(), 0
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      tool.cli.parse(["generate.py", *argv])
      with tool.cli.user_errors():
        tool.main()
    except SystemExit as end:
      status = end.code
  found.append((status, out.getvalue(), err.getvalue()))
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_janus.save(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
  """Returns files: tall, turned by EXIF; wide, a palette; square, alpha."""
  folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
  exif = PIL.Image.Exif()
  exif[274] = 6
  paths = []
  for width, height, mode in ((31, 40, "RGB"), (50, 9, "P"), (20, 20, "RGBA")):
    pixels = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 4), "uint8")
    image = PIL.Image.fromarray(pixels).resize((width, height), 0)
    paths.append(folder / f"{width}.png")
    image.convert(mode).save(paths[-1], exif=exif)
  (folder / "text.png").write_text("no image")
  (folder / "part.png").write_bytes(paths[0].read_bytes()[:-100])
  return paths


@pytest.fixture(scope="module")
def results(tmp_path_factory, folder, image_files):
  """Runs all commands; returns name -> (status, stdout, stderr, --out)."""
  place = tmp_path_factory.mktemp("outs")
  (place / "empty").mkdir()
  bad = bad_flags.make(place, image_files[0].parent)
  history = f"--history={','.join(map(str, image_files))}"
  titled = [history, "--titles=" + "|".join(TITLES)]
  sampling = ["--num=3", "--guidance=2", "--temperature=1.5", "--top_k=20"]
  commands = {
    "history": [*titled, "--greedy", "--num=2", f"--dump={place}/dump"],
    "empty": ["--prompt= red cross ", *sampling, f"--dump={place}/empty"],
    "again": ["--prompt=red cross", *sampling, f"--dump={place}/again/dump"],
    "item": [
      *titled,
      "--mode=item",
      *sampling,
      "--max_tokens=5",
      f"--dump={place}/item_dump",
    ],
    "text": [
      *titled,
      "--mode=text",
      "--greedy",
      "--max_tokens=9",
      "--prompt=Which is red? ",
      f"--dump={place}/text_dump",
    ],
  }
  base = tiny_janus.pair()[2]
  trained, _ = tree.select(base, ["layers/self_attn/q_proj/kernel"])
  workdir = tiny_janus.make_workdir(place / "workdir", folder, trained)
  tiny_janus.edit(
    workdir / "config.json",
    sample={"guidance": 2.5, "temperature": 0.75, "top_k": 7, "top_p": 0.5},
    data={"instruction": "Draw what comes next."},
  )
  commands["run"] = [titled[0], f"--model={workdir}", "--num=1", "--top_k=9"]
  commands = {n: [f"--out={place / n}", *c] for n, c in commands.items()}
  commands |= {name: arguments for name, (arguments, _) in bad.items()}
  code = [[f"--model={folder}", *c] for c in commands.values()]
  done = subprocess.run(
    [sys.executable, "-c", DRIVER, TOOL],
    check=False,
    input=json.dumps(code),
    capture_output=True,
    text=True,
    env={**os.environ, "HF_HUB_OFFLINE": "1"},
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  hidden = [path.name for path in place.rglob(".*")]
  assert not hidden  # no temporary folder stays
  return {
    name: (*result, place / name)
    for name, result in zip(commands, found, strict=True)
  }


def theirs():
  return transformers.JanusProcessor(
    tiny_janus.image_processor(),
    testing.janus_tokenizer(),
    chat_template=janus_processor.CHAT,
    num_image_tokens=tiny_janus.PATCHES,
  )


def opened(path):
  return np.asarray(PIL.Image.open(path))


def test_images_are_generated_for_a_history(results, folder, image_files):
  status, stdout, stderr, out = results["history"]
  assert status == 0, stderr
  assert len(stdout.splitlines()) <= 5
  assert "3 images, 'Draw the next item that this user will like.'" in stdout
  assert {path.name for path in out.iterdir()} == {
    "0.png",
    "1.png",
    "sheet.png",
  }
  dump = {path.stem: np.load(path) for path in (out.parent / "dump").iterdir()}
  assert dump.keys() == {"prompt_ids", "pixel_values", "codes", "images"}
  side, codes = tiny_janus.SIDE, tiny_janus.PATCHES
  for name, shape, dtype in (
    ("pixel_values", (3, 3, side, side), np.float32),
    ("codes", (2, codes), np.int32),
    ("images", (2, side, side, 3), np.uint8),
  ):
    assert dump[name].shape == shape
    assert dump[name].dtype == dtype
  assert dump["prompt_ids"].dtype == np.int32
  expected = JanusProcessor.from_pretrained(folder).prompt_ids(
    TITLES, "Draw the next item that this user will like."
  )
  assert dump["prompt_ids"].tolist() == expected
  values = theirs().image_processor(
    [processor_lib.open_image(path) for path in image_files],
    return_tensors="np",
  )["pixel_values"]
  np.testing.assert_allclose(dump["pixel_values"], values, atol=1e-5)
  np.testing.assert_array_equal(*dump["codes"])  # greedy: the same twice
  for i, image in enumerate(dump["images"]):
    np.testing.assert_array_equal(opened(out / f"{i}.png"), image)


def test_a_text_is_drawn_and_a_seed_repeats_it(results):
  status, stdout, stderr, out = results["empty"]
  assert status == 0, stderr
  assert "0 images, 'red cross'" in stdout
  assert len(list(out.iterdir())) == 3 + 1 + 4  # --dump is the same folder
  codes = np.load(out / "codes.npy")
  assert len(np.unique(codes, axis=0)) == 3
  assert np.load(out / "pixel_values.npy").shape == (0, 3, 20, 20)
  status, _, stderr, out = results["again"]
  assert status == 0, stderr
  np.testing.assert_array_equal(np.load(out / "dump" / "codes.npy"), codes)


def test_an_item_is_a_title_and_its_image(results, folder):
  status, stdout, stderr, out = results["item"]
  assert status == 0, stderr
  assert {path.name for path in out.iterdir()} == {
    *("0.png", "1.png", "2.png", "sheet.png", "titles.txt"),
  }
  dump = {
    path.stem: np.load(path) for path in (out.parent / "item_dump").iterdir()
  }
  assert dump["title_ids"].shape == (3, 5)
  processor = JanusProcessor.from_pretrained(folder)
  prompt = processor.prompt_ids(
    TITLES, "Draw the next item that this user will like."
  )
  assert dump["prompt_ids"].tolist() == prompt[:-1]  # the answer begins it
  titles = [
    processor.tokenizer.decode(row[row >= 0], skip_special_tokens=True).strip()
    for row in dump["title_ids"]
  ]
  written = (out / "titles.txt").read_text("utf-8")
  assert written == "".join(f"{title}\n" for title in titles)
  assert stdout.startswith(written)
  assert "item, loaded in" in stdout
  for i, image in enumerate(dump["images"]):
    np.testing.assert_array_equal(opened(out / f"{i}.png"), image)


def test_a_run_s_model_is_sampled_as_in_the_run(results):
  status, stdout, stderr, _ = results["run"]
  assert status == 0, stderr
  assert "3 images, 'Draw what comes next.'" in stdout
  chosen = "guidance 2.5, temperature 0.75, top_k 9, top_p 0.5"
  assert chosen in stdout  # the flag before the run's
  _, stdout, *_ = results["empty"]
  assert "guidance 2, temperature 1.5, top_k 20, top_p 1" in stdout
  _, stdout, *_ = results["history"]
  assert "guidance 5, temperature 1, top_k 0, top_p 1" in stdout


def test_greedy_text_is_that_of_transformers(results, image_files):
  status, stdout, stderr, out = results["text"]
  assert status == 0, stderr
  content = []
  for title, path in zip(TITLES, image_files, strict=True):
    title = title.replace("<image_placeholder>", " ")
    content += [{"type": "text", "text": title}] if title else []
    image = processor_lib.open_image(path)  # theirs leaves alpha out
    content.append({"type": "image", "image": image})
  content.append({"type": "text", "text": "Which is red? "})
  inputs = theirs().apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
  )
  dump = {
    path.stem: np.load(path) for path in (out.parent / "text_dump").iterdir()
  }
  assert dump.keys() == {"prompt_ids", "pixel_values", "answer_ids"}
  np.testing.assert_array_equal(dump["prompt_ids"], inputs["input_ids"][0])
  np.testing.assert_allclose(
    dump["pixel_values"], inputs["pixel_values"], atol=1e-5
  )
  model, _, _ = tiny_janus.pair()
  with torch.no_grad():
    expected = model.generate(
      **inputs,
      generation_mode="text",
      max_new_tokens=9,
      do_sample=False,
      guidance_scale=None,
    )[0, inputs["input_ids"].shape[1] :]
  assert dump["answer_ids"].tolist() == expected.tolist()
  words = testing.janus_tokenizer().decode(expected, skip_special_tokens=True)
  assert (out / "answer.txt").read_text("utf-8") == words.strip() + "\n"
  assert stdout.startswith(words.strip())
  assert [path.name for path in out.iterdir()] == ["answer.txt"]


@pytest.mark.parametrize("name", bad_flags.CASES)
def test_what_cannot_be_is_refused_in_one_error(results, image_files, name):
  _, messages = bad_flags.CASES[name]
  known = {
    "images": image_files[0].parent,
    "place": results["nothing"][3].parent,
  }
  status, stdout, stderr, out = results[name]
  stderr = own_words(stderr)
  assert status == 1
  assert not stdout
  assert stderr.startswith("error: ")
  assert "Traceback" not in stderr
  for message in messages:
    assert message.format(**known) in stderr
  if out.is_dir():
    assert [path.name for path in out.iterdir()] == ["note"]
  else:
    assert not out.exists() or out.read_text() == "keep"


def test_the_script_ends_with_an_error_s_status(tmp_path):
  done = subprocess.run(
    [sys.executable, TOOL, "--model=tiny_sft", f"--out={tmp_path / 'out'}"],
    check=False,
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.returncode == 1
  assert own_words(done.stderr) == (
    "error: nothing to go by: give --history, --prompt or both\n"
  )
  assert not (tmp_path / "out").exists()
