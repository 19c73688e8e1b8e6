"""The torch tool draws what we draw, and needs nothing of ours to do it."""

import contextlib
import functools
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
from safetensors.torch import load_file, save_file
import tokenizers
import torch

from genrec_jax import sampling
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import Prompt
from genrec_jax.hf.janus_processor import CHAT, JanusProcessor
from genrec_jax.hf.load import load_generator
from genrec_jax.sampling import Sampling
from genrec_jax.testing import BOI, BOS, EOS, IMAGE, SPECIAL_TOKENS
from tests.hf import bad_input_test, tiny_janus
from tests.tools import bad_flags
from tests.tools.process import own_words
from tools import hf_inference
from tools.hf_inference import checkpoint, command, flags
from tools.hf_inference import sampling as torch_sampling

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
  return hf_inference.load(folder)


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


@functools.cache
def our_greedy_codes(model):
  """Returns a function of parameters and a prompt; codes [P, I]."""
  return jax.jit(
    lambda params, prompt: sampling.sample_images(
      model,
      params,
      prompt,
      jax.random.key(0),
      Sampling(num_samples=1, guidance=5.0, greedy=True),
    ).codes[:, 0]
  )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_pixels_and_greedy_codes_are_ours(folder, tmp_path, pictures, kind):
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
  seen = hf_inference.open_images(pictures)
  prompts = [
    hf_inference.image_prompt(processor, TITLES, seen, instruction),
    hf_inference.image_prompt(processor, [], [], text),
  ]
  assert [prompt["input_ids"][0].tolist() for prompt in prompts] == rows
  question = hf_inference.question_prompt(processor, TITLES, seen, text)
  expected = ours.processor.question_ids(TITLES, text)
  assert question["input_ids"][0].tolist() == expected
  assert question["attention_mask"].shape == question["input_ids"].shape
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
  expected = our_greedy_codes(ours.model)(ours.params, prompt)
  found = [draw(model, p, num=2, guidance=5.0, greedy=True) for p in prompts]
  for row, codes in enumerate(found):
    assert codes.shape == (2, ours.model.image_tokens)
    for one in codes:
      np.testing.assert_array_equal(one, expected[row])
  assert len(np.unique(torch.cat(found))) > 5  # else it would mean little
  drawn = sampling.decode_images(ours.model, ours.params, expected[:, None])
  np.testing.assert_allclose(
    hf_inference.decode_images(model, found[0])[0], 255 * drawn[0, 0], atol=0.6
  )


def test_bos_ids_that_contradict_each_other_are_refused(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  tiny_janus.edit(tmp_path / "generation_config.json", bos_token_id=9)
  message = "bos_token_id is 0 in the tokenizer and 9 in config.json or gen"
  with pytest.raises(UserError, match=message):
    load_generator(tmp_path, dtype="float32")
  with pytest.raises(ValueError, match=message):
    hf_inference.load(tmp_path)


def test_ids_are_taken_where_the_package_takes_them(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  for changes in (
    {"pad_token_id": 70, "eos_token_id": [1, 71], "generation_kwargs": None},
    {"pad_token_id": None, "boi_token_id": BOI},
    None,
  ):
    file = tmp_path / "generation_config.json"
    if changes:
      tiny_janus.edit(file, **changes)
    else:
      file.unlink()
    ours = JanusProcessor.from_pretrained(tmp_path)
    theirs = hf_inference.load(tmp_path)[0].generation_config
    assert theirs.bos_token_id == ours.bos_id
    assert theirs.pad_token_id == ours.pad_id
    assert theirs.generation_kwargs == {"boi_token_id": ours.boi_id}
    ends = theirs.eos_token_id
    assert (ends if isinstance(ends, list) else [ends]) == list(ours.end_ids)


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


def draw(model, prompt, **options):
  return hf_inference.sample_codes(
    model, prompt["input_ids"], prompt.get("pixel_values"), **options
  )


def test_titles_and_their_images_are_ours(folder, pictures):
  ours = load_generator(folder, dtype="float32")
  model, processor = hf_inference.load(folder)
  seen = hf_inference.open_images(pictures)
  inputs = hf_inference.image_prompt(processor, TITLES, seen, "Draw.")
  ids = np.asarray([ours.processor.prompt_ids(TITLES, "Draw.")[:-1]], np.int32)
  images = np.stack([ours.processor.pixels(picture) for picture in seen])
  prompt = Prompt(ids=ids, mask=np.ones_like(ids, bool), images=images[None])

  def compare(ends):
    """Returns the words of the one title that both write."""
    model.generation_config.eos_token_id = list(ends)
    rollout = jax.jit(
      lambda params: sampling.sample_items(
        ours.model,
        params,
        prompt,
        jax.random.key(0),
        Sampling(num_samples=2, guidance=5.0, greedy=True),
        sampling.Titles(max_tokens=6, end_ids=(BOI, *ends)),
      )
    )(ours.params)
    titles, codes = hf_inference.sample_items(
      model,
      inputs["input_ids"],
      inputs["pixel_values"],
      max_tokens=6,
      num=2,
      guidance=5.0,
      greedy=True,
    )
    for sample, words in enumerate(titles):
      real = np.asarray(rollout.title.words[0, sample])
      assert np.asarray(rollout.title.tokens[0, sample])[real].tolist() == words
    np.testing.assert_array_equal(codes, rollout.codes[0])
    return titles[0], codes

  whole, codes = compare([EOS])
  assert len(whole) == 6  # a random model's has no end and is cut off
  short, others = compare([EOS, whole[3]])
  assert short == whole[: whole.index(whole[3])]
  assert (codes != others).any()  # the image sees its title


def test_text_prompts_draw_what_transformers_draws(theirs):
  model, processor = theirs
  prompt = hf_inference.image_prompt(processor, [], [], "a blue cross")
  expected = model.generate(
    **prompt, generation_mode="image", guidance_scale=3, do_sample=False
  )
  found = draw(model, prompt, num=1, guidance=3, greedy=True)
  np.testing.assert_array_equal(found, expected)


@torch.no_grad()
def test_without_guidance_the_prompt_alone_counts(theirs, pictures):
  model, processor = theirs
  seen = hf_inference.open_images(pictures[:1])
  prompt = hf_inference.image_prompt(processor, ["a"], seen, "Draw.")
  codes = draw(model, prompt, num=1, guidance=1, greedy=True)
  # All at once, without a cache.
  embeds = model.get_input_embeddings()(prompt["input_ids"])
  features = model.model.get_image_features(
    prompt["pixel_values"], return_dict=True
  ).pooler_output
  slots = prompt["input_ids"][..., None] == IMAGE
  embeds = torch.cat(
    [
      embeds.masked_scatter(slots, features),
      model.prepare_embeddings_for_image_generation(codes[:, :-1]),
    ],
    1,
  )
  hidden = model.model.language_model(
    inputs_embeds=embeds, use_cache=False
  ).last_hidden_state[:, -codes.shape[1] :]
  np.testing.assert_array_equal(
    codes, model.model.generation_head(hidden).argmax(-1)
  )


@pytest.mark.parametrize(
  ("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (6, 0.5), (99, 1e-9)]
)
def test_codes_are_sampled_from_our_distribution(top_k, top_p):
  logits = np.random.default_rng(0).normal(0, 2, (4, 20)).astype(np.float32)
  logits[0, 3:9] = logits[0].max()  # equals stay or go together
  found = torch_sampling.probabilities(torch.tensor(logits), 0.8, top_k, top_p)
  expected = np.exp(
    Sampling(temperature=0.8, top_k=top_k, top_p=top_p).logprobs(logits)
  )
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_seed_decides_what_is_sampled(theirs):
  model, processor = theirs
  prompt = hf_inference.image_prompt(processor, [], [], "a blue cross")
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
  """A copy of the file and its folder, as `python copy/infer_hf.py` runs it."""
  copy = tmp_path / "copy"
  shutil.copytree(
    ROOT / "tools/hf_inference",
    copy / "hf_inference",
    ignore=shutil.ignore_patterns("__pycache__"),
  )
  shutil.copy(ROOT / "tools/infer_hf.py", copy)
  code = (
    "import runpy, sys\n"
    "for name in ('jax', 'jaxlib', 'flax', 'genrec_jax', 'absl', 'tools'):\n"
    "  sys.modules[name] = None\n"
    f"sys.argv[0] = {str(copy / 'infer_hf.py')!r}\n"
    f"sys.path[0] = {str(copy)!r}\n"
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
  assert (done.returncode, own_words(done.stderr)) == (0, "")
  assert "past_key_values" not in done.stderr  # deprecated since 5.24
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
      *(f"--out={tmp_path / name}", f"--dump={tmp_path / name}"),
      *("--titles=a||red cross", "--prompt=Draw this.", "--num=2"),
      *("--guidance=3", "--greedy"),
    ]

  command.main(arguments("infer_hf"))
  subprocess.run(
    [sys.executable, ROOT / "tools/generate.py", *arguments("generate")],
    env={**os.environ, "HF_HUB_OFFLINE": "1", "XLA_FLAGS": ""},
    check=True,
  )
  files = [
    sorted(p.name for p in (tmp_path / name).iterdir())
    for name in ("infer_hf", "generate")
  ]
  assert files[0] == files[1]
  assert files[0][:2] == ["0.png", "1.png"]
  theirs, ours = (
    {p.stem: np.load(p) for p in (tmp_path / name).glob("*.npy")}
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
  command.main(arguments)
  text = capsys.readouterr().out
  assert text.strip()
  assert text.startswith((tmp_path / "out/answer.txt").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def refusals(place, pictures):
  images = pictures[0].parent
  (images / "text.png").write_text("no image")
  (images / "part.png").write_bytes(pictures[0].read_bytes()[:-100])
  return bad_flags.make(place, images)


@pytest.mark.parametrize("name", bad_flags.CASES)
def test_what_generate_refuses_is_refused_in_one_line(
  folder, theirs, place, refusals, monkeypatch, name
):
  """The other half is generate_test."""
  arguments, messages = refusals[name]
  monkeypatch.setattr(
    checkpoint,
    "load",
    (lambda *_: theirs) if "too" in name else lambda *_: pytest.fail("loaded"),
  )
  with pytest.raises(SystemExit) as error:
    command.main([f"--model={folder}", *arguments])
  assert error.value.code.startswith("error: ")
  for message in messages:
    assert message in error.value.code
  assert "\n" not in error.value.code
  assert {path.name for path in place.iterdir()} == {"full", "file"}
  assert [path.name for path in (place / "full").iterdir()] == ["note"]


def test_both_tools_take_the_same_flags():
  """They define them apart: infer_hf.py stands alone."""
  code = (
    "from absl import flags; from tools import generate;"
    "by_module = flags.FLAGS.flags_by_module_dict();"
    "print(*(flag.name for flag in by_module['tools.generate']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    check=True,
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  with (
    pytest.raises(SystemExit),
    contextlib.redirect_stdout(io.StringIO()) as help_text,
  ):
    flags.parse(["--help"])
  theirs = set(re.findall(r"^  --(\w+)", help_text.getvalue(), re.MULTILINE))
  assert theirs - {"device", "nogreedy"} == set(done.stdout.split())


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
    hf_inference.load(folder)
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
  model, _ = hf_inference.load(folder)
  assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_name_on_the_hub_is_the_folder_it_is_downloaded_to(
  folder, monkeypatch
):
  names = []

  def download(name, allow_patterns):
    names.append(name)
    assert not any("bin" in pattern for pattern in allow_patterns)
    return str(folder)

  monkeypatch.setattr(checkpoint.huggingface_hub, "snapshot_download", download)
  hf_inference.load("someone/janus")
  assert names == ["someone/janus"]


def test_another_kind_of_model_is_refused():
  with pytest.raises(ValueError, match="model_type 'clip'; expected 'janus'"):
    hf_inference.load(ASSET.with_name("tiny_clip"))


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
    checkpoint.transformers.JanusForConditionalGeneration,
    "from_pretrained",
    lambda *_, **__: pytest.fail("read what does not fit"),
  )
  with pytest.raises(SystemExit) as error:
    command.main([f"--model={folder}", "--prompt=a", f"--out={out}"])
  assert error.value.code.startswith(f"error: cannot load {folder}: ")
  assert "\n" not in error.value.code
  for part in expected:
    found = part.format(shard=shard, image_id=IMAGE)
    assert found in error.value.code
  assert [path.name for path in tmp_path.iterdir()] == ["janus"]
