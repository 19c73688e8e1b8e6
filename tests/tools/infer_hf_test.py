"""The torch tool draws what we draw, and needs nothing of ours to do it."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
from safetensors.torch import load_file, save_file
import torch

from benchmarks import special_tokens
from genrec_jax import sampling
from genrec_jax.core.types import Prompt
from genrec_jax.hf.load import load_generator
from genrec_jax.hf.processor import CHAT
from tests.hf import bad_input_test, tiny_janus
from tools import infer_hf as tool

ROOT = pathlib.Path(__file__).parents[2]
ASSET = ROOT / "genrec_jax/assets/tiny_sft"
TITLES = ["a red cross", "", "blue <image_placeholder> circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tiny_janus.save(tmp_path_factory.mktemp("janus"))
  (folder / "chat_template.jinja").write_text(CHAT)
  return folder


@pytest.fixture(scope="module")
def theirs(folder):
  return tool.load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Returns files of a tall, a wide and a square picture in odd modes."""
  folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
  paths = []
  for width, height, mode in ((31, 40, "RGB"), (50, 9, "P"), (20, 20, "L")):
    pixels = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), "uint8")
    picture = PIL.Image.fromarray(pixels).resize((width, height), 0)
    paths.append(folder / f"{width}.png")
    picture.convert(mode).save(paths[-1])
  return paths


def test_ids_pixels_and_greedy_codes_are_ours(folder, theirs, pictures):
  ours = load_generator(folder, dtype="float32")
  instruction, text = "Draw the next one.", "large red circle"
  rows = [
    ours.processor.prompt_ids(TITLES, instruction),
    ours.processor.prompt_ids([], text),
  ]
  model, processor = theirs
  seen = tool.read_pictures(pictures)
  prompts = [
    tool.drawing_prompt(processor, TITLES, seen, instruction),
    tool.drawing_prompt(processor, [], [], text),
  ]
  assert [prompt["input_ids"][0].tolist() for prompt in prompts] == rows
  question = tool.question_prompt(processor, TITLES, seen, text)
  expected = ours.processor.question_ids(TITLES, text)
  assert question["input_ids"][0].tolist() == expected
  images = np.stack([ours.processor.pixels(picture) for picture in seen])
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
  rollout = jax.jit(
    lambda params, prompt: sampling.sample_images(
      ours.model,
      params,
      prompt,
      jax.random.key(0),
      num_samples=1,
      guidance=5.0,
      greedy=True,
    )
  )(ours.params, prompt)
  found = [draw(model, p, num=2, guidance=5.0, greedy=True) for p in prompts]
  for row, codes in enumerate(found):
    assert codes.shape == (2, ours.model.image_tokens)
    for one in codes:
      np.testing.assert_array_equal(one, rollout.codes[row, 0])
  assert len(np.unique(torch.cat(found))) > 5  # else it would mean little
  drawn = sampling.decode_images(ours.model, ours.params, rollout.codes)
  np.testing.assert_allclose(
    tool.decode(model, found[0])[0], 255 * drawn[0, 0], atol=0.6
  )


def draw(model, prompt, **options):
  return tool.draw(
    model, prompt["input_ids"], prompt.get("pixel_values"), **options
  )


def test_text_prompts_draw_what_transformers_draws(theirs):
  model, processor = theirs
  prompt = tool.drawing_prompt(processor, [], [], "a blue cross")
  expected = model.generate(
    **prompt, generation_mode="image", guidance_scale=3, do_sample=False
  )
  found = draw(model, prompt, num=1, guidance=3, greedy=True)
  np.testing.assert_array_equal(found, expected)


@torch.no_grad()
def test_without_guidance_the_prompt_alone_counts(theirs, pictures):
  model, processor = theirs
  seen = tool.read_pictures(pictures[:1])
  prompt = tool.drawing_prompt(processor, ["a"], seen, "Draw.")
  codes = draw(model, prompt, num=1, guidance=1, greedy=True)
  # All at once, without a cache, by transformers' own way to place pictures.
  seen = model.model(**prompt, use_cache=True)
  embeds = model.prepare_embeddings_for_image_generation(codes[:, :-1])
  hidden = model.model.language_model(
    inputs_embeds=embeds, past_key_values=seen.past_key_values
  ).last_hidden_state
  hidden = torch.cat([seen.last_hidden_state[:, -1:], hidden], 1)
  np.testing.assert_array_equal(
    codes, model.model.generation_head(hidden).argmax(-1)
  )


@pytest.mark.parametrize(
  ("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (6, 0.5), (99, 1e-9)]
)
def test_codes_are_sampled_from_our_distribution(top_k, top_p):
  logits = np.random.default_rng(0).normal(0, 2, (4, 20)).astype(np.float32)
  logits[0, 3:9] = logits[0].max()  # equals stay or go together
  found = tool.probabilities(torch.tensor(logits), 0.8, top_k, top_p)
  expected = np.exp(
    sampling.log_distribution(logits, temperature=0.8, top_k=top_k, top_p=top_p)
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_seed_decides_what_is_sampled(theirs):
  model, processor = theirs
  prompt = tool.drawing_prompt(processor, [], [], "a blue cross")
  first, again, other = (
    draw(model, prompt, num=2, temperature=2, seed=seed).numpy()
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  assert (first[0] != first[1]).any()


def test_it_runs_where_there_is_neither_jax_nor_this_package(
  tmp_path, pictures
):
  code = (
    "import runpy, sys\n"
    "for name in ('jax', 'jaxlib', 'flax', 'genrec_jax', 'absl'):\n"
    "  sys.modules[name] = None\n"
    f"sys.argv[0] = {str(ROOT / 'tools/infer_hf.py')!r}\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-c", code),
      *(f"--model={ASSET}", "--titles=large red circle|small cross|"),
      f"--history={','.join(map(str, pictures))}",
      *("--out=new/out", "--dump=dump", "--num=3", "--temperature=0.5"),
    ],
    cwd=tmp_path,
    env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")
  names = {path.name for path in (tmp_path / "new/out").iterdir()}
  assert names == {"0.png", "1.png", "2.png", "sheet.png"}
  arrays = {path.stem: np.load(path) for path in (tmp_path / "dump").iterdir()}
  assert {name: (a.shape, str(a.dtype)) for name, a in arrays.items()} == {
    "prompt_ids": (arrays["prompt_ids"].shape, "int32"),
    "pixel_values": ((3, 3, 32, 32), "float32"),
    "codes": ((3, 16), "int32"),
    "images": ((3, 32, 32, 3), "uint8"),
  }
  sheet = np.asarray(PIL.Image.open(tmp_path / "new/out/sheet.png"))
  assert sheet.shape == (64, 96, 3)
  for i, image in enumerate(arrays["images"]):
    written = np.asarray(PIL.Image.open(tmp_path / f"new/out/{i}.png"))
    np.testing.assert_array_equal(written, image)
    np.testing.assert_array_equal(sheet[32:, 32 * i : 32 * i + 32], image)


def test_both_tools_write_the_same_arrays(tmp_path, pictures):
  def arguments(name):
    return [
      *(f"--model={ASSET}", f"--history={','.join(map(str, pictures))}"),
      *(f"--out={tmp_path / name}", f"--dump={tmp_path / f'{name}_dump'}"),
      *("--titles=a||red cross", "--prompt=Draw this.", "--num=2"),
      *("--guidance=3", "--greedy"),
    ]

  tool.main(arguments("infer_hf"))
  subprocess.run(
    [sys.executable, ROOT / "tools/generate.py", *arguments("generate")],
    env={**os.environ, "HF_HUB_OFFLINE": "1", "XLA_FLAGS": ""},
    check=True,
  )
  files = [
    sorted(p.name for p in (tmp_path / name).iterdir())
    for name in ("infer_hf", "generate")
  ]
  assert files[0] == files[1] == ["0.png", "1.png", "sheet.png"]
  theirs, ours = (
    {p.stem: np.load(p) for p in (tmp_path / f"{name}_dump").iterdir()}
    for name in ("infer_hf", "generate")
  )
  assert theirs.keys() == ours.keys()
  for name, array in theirs.items():
    assert array.dtype == ours[name].dtype, name
  np.testing.assert_array_equal(theirs["prompt_ids"], ours["prompt_ids"])
  np.testing.assert_array_equal(theirs["codes"], ours["codes"])
  np.testing.assert_allclose(
    theirs["pixel_values"], ours["pixel_values"], atol=1e-6
  )
  np.testing.assert_allclose(
    theirs["images"].astype(int), ours["images"], atol=1
  )


def test_it_answers_a_question_about_a_picture(tmp_path, pictures, capsys):
  arguments = [
    *(f"--model={ASSET.with_name('tiny_base')}", "--mode=text"),
    *(f"--history={pictures[2]}", f"--out={tmp_path / 'out'}"),
    *("--prompt=What is it?", "--greedy", "--max_tokens=8"),
  ]
  tool.main(arguments)
  text = capsys.readouterr().out
  assert text.strip()
  assert text.startswith((tmp_path / "out/answer.txt").read_text())


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (
      {"history": "{good},no.png,{folder}/config.json,{folder}"},
      "no images, give others: no.png ([Errno 2] No such file or directory:"
      " 'no.png'); {folder}/config.json (cannot identify image file"
      " '{folder}/config.json'); {folder} ([Errno 21]",
    ),
    ({"titles": "a|b"}, "expected 1 --titles, not 2, as in 'A|B'"),
    ({"num": "0", "top_p": "0"}, "--num at least 1; --top_p more than 0"),
    ({"num": "many"}, "argument --num: invalid int value"),
    ({"mode": "dance"}, "invalid choice: 'dance'"),
    ({"model": "{work}/missing"}, "cannot load"),
    ({"history": ",".join(["{good}"] * 9)}, "give fewer pictures"),
  ],
)
def test_what_is_wrong_is_said_in_one_line(
  tmp_path, folder, pictures, capsys, changes, expected
):
  flags = {"model": folder, "history": "{good}", "out": "{work}/out", **changes}
  known = {"good": pictures[0], "folder": folder, "work": tmp_path}
  flags = [f"--{k}={str(v).format(**known)}" for k, v in flags.items()]
  with pytest.raises(SystemExit) as error:
    tool.main([*flags, f"--dump={tmp_path / 'dump'}"])
  assert expected.format(**known) in error.value.code
  assert "\n" not in error.value.code
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["out", "dump"])
@pytest.mark.parametrize("place", ["full", "file", "file/in/it", "/proc/new"])
def test_a_folder_that_cannot_be_written_is_known_before_loading(
  tmp_path, monkeypatch, flag, place
):
  (tmp_path / "full/inside").mkdir(parents=True)
  (tmp_path / "file").touch()
  monkeypatch.setattr(tool, "load", lambda *_: pytest.fail("loaded"))
  flags = {"out": tmp_path / "out", flag: tmp_path / place}
  with pytest.raises(SystemExit) as error:
    tool.main(
      [
        f"--model={ASSET}",
        "--prompt=a",
        *(f"--{k}={v}" for k, v in flags.items()),
      ]
    )
  assert "--out and --dump absent or empty, where you may" in error.value.code
  assert {path.name for path in tmp_path.iterdir()} == {"full", "file"}


def test_tensors_that_do_not_fit_are_listed_with_their_file(tmp_path):
  folder = tiny_janus.save(tmp_path / "janus")
  tensors = load_file(folder / "model.safetensors")
  tensors.pop("model.aligner.fc1.bias")
  tensors["other"] = torch.zeros(1)
  tensors["model.aligner.hidden_layers.0.bias"] = torch.zeros(3)
  tensors["model.aligner.fc1.weight"] = tensors[
    "model.aligner.fc1.weight"
  ].int()
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  with pytest.raises(
    ValueError, match="4 in all; get the files again"
  ) as error:
    tool.load(folder)
  for problem in (
    "fc1.bias is absent, expected float [40]",
    "fc1.weight is I32 [40, 36], expected float [40, 36]",
    "hidden_layers.0.bias is float [3], expected float [40]",
  ):
    assert f"model.safetensors: model.aligner.{problem}" in str(error.value)
  assert "model.safetensors: other is float [1], expected nothing" in str(
    error.value
  )


def test_a_tied_head_may_be_left_out(tmp_path):
  folder = tiny_janus.save(tmp_path / "tied", tiny_janus.torch_model(tied=True))
  assert "lm_head.weight" not in load_file(folder / "model.safetensors")
  model, _ = tool.load(folder)
  assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_name_on_the_hub_is_the_folder_it_is_downloaded_to(
  folder, monkeypatch
):
  names = []

  def download(name, allow_patterns):
    names.append(name)
    assert not any("bin" in pattern for pattern in allow_patterns)
    return str(folder)

  monkeypatch.setattr(tool.huggingface_hub, "snapshot_download", download)
  tool.load("someone/janus")
  assert names == ["someone/janus"]


def test_another_kind_of_model_is_refused():
  with pytest.raises(ValueError, match="model_type 'clip'; expected 'janus'"):
    tool.load(ASSET.with_name("tiny_clip"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sharded")
  return tiny_janus.save(folder, max_shard_size="200KB")


def tokens_of_another_model(folder):
  tiny_janus.edit(folder / "config.json", image_token_id=7)


def no_weight_map(folder):
  (folder / bad_input_test.INDEX).write_text("[]")


def index_beside_one_file(folder):
  """Leaves an index of other files: which of them are the model."""
  tiny_janus.save(folder)
  (folder / bad_input_test.INDEX).write_text(
    '{"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}'
  )


@pytest.mark.parametrize(
  ("damage", "expected"),
  [
    (
      bad_input_test.missing_shard,
      ("{shard} is missing or not whole (No such",),
    ),
    (
      bad_input_test.absent_tensors,
      (
        "{shard}: ghost.bias is absent, expected by the index alone",
        "{shard}: ghost.weight is absent, expected by the index alone; 2 in",
      ),
    ),
    (bad_input_test.truncated, ("{shard} is missing or not whole (Error",)),
    (
      bad_input_test.misshapen_and_extra,
      (
        "{shard}: extra.one is float [2], expected by the index alone",
        "is float [3, 1, 2], expected float [",
        "is I32 [",
      ),
    ),
    (
      bad_input_test.missing_tensors,
      ("model.safetensors.index.json: model.", "2 in all"),
    ),
    (
      bad_input_test.pickled("pytorch_model.bin"),
      ("model.safetensors is missing", "get the files again, as safetensors"),
    ),
    (
      bad_input_test.no_image_tokens,
      ("tokenizer*.json", "image_token; take these files of the same"),
    ),
    (
      tokens_of_another_model,
      ("tokenizer*.json", "is {image_id}, in config.json 7; take these files"),
    ),
    (no_weight_map, ("index.json has no weight_map; get it again",)),
    (
      index_beside_one_file,
      (
        "model-00001-of-00001.safetensors is missing or not whole",
        "model.safetensors: lm_head.weight is float",
      ),
    ),
  ],
)
def test_a_damaged_checkpoint_is_one_error(
  sharded, tmp_path, monkeypatch, damage, expected
):
  folder, out = tmp_path / "janus", tmp_path / "out"
  shutil.copytree(sharded, folder)
  shard = bad_input_test.shard(folder).name
  damage(folder)
  monkeypatch.setattr(
    tool.transformers.JanusForConditionalGeneration,
    "from_pretrained",
    lambda *_, **__: pytest.fail("read what does not fit"),
  )
  with pytest.raises(SystemExit) as error:
    tool.main([f"--model={folder}", "--prompt=a", f"--out={out}"])
  assert error.value.code.startswith(f"error: cannot load {folder}: ")
  assert "\n" not in error.value.code
  for part in expected:
    found = part.format(shard=shard, image_id=special_tokens.IMAGE)
    assert found in error.value.code
  assert [path.name for path in tmp_path.iterdir()] == ["janus"]
