"""From transformers, through our files, to transformers: it draws the same."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch

from genrec_jax import sampling
from genrec_jax.core.types import Prompt
from genrec_jax.hf import load, safetensors_io
from genrec_jax.hf.export import export_generator
from tests.greedy import greedy_codes
from tests.hf import random_janus, tiny_janus
from tests.hf.sharded_read_test import GB, available_memory
from tests.logits import code_logits
from tools import hf_inference
from tools.hf_inference import sampling as torch_sampling

INSTRUCTION = "Draw the next item."
TITLES = ["a red cross", "large circle", "", "blue on sand", "the item"]
# Wide enough that its 1.1e8 parameters are mostly the language model's.
MEDIUM = {
  "text": {
    "vocab_size": 16000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
  },
  "vision": {
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "mlp_ratio": 4.0,
    "projection_dim": 768,
  },
  "vq": {
    "projection_dim": 768,
    "image_token_embed_dim": 768,
    "num_embeddings": 4096,
  },
}


def pictures():
  """Returns five pictures of odd sizes."""
  rng = np.random.default_rng(0)
  return [
    PIL.Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(size)
    for size in ((31, 40), (50, 9), (20, 20), (400, 300), (64, 384))
  ]


def prompts(processor):
  """Returns a prompt of text and one of five pictures, with what is to see."""
  seen = np.stack([processor.pixels(picture) for picture in pictures()])
  return {
    "text": (processor.prompt_ids([], "large red circle"), seen[:0]),
    "history": (processor.prompt_ids(TITLES, INSTRUCTION), seen),
  }


def as_prompt(ids, seen):
  ids = np.asarray([ids], np.int32)
  return Prompt(ids, np.ones(ids.shape, bool), seen[None])


def torch_prompts(processor):
  """Returns the same for torch, prepared by transformers."""
  return {
    "text": hf_inference.image_prompt(processor, [], [], "large red circle"),
    "history": hf_inference.image_prompt(
      processor, TITLES, pictures(), INSTRUCTION
    ),
  }


def assert_same_files(source, out):
  """Compares all tensors bit for bit, one at a time."""
  expected = safetensors_io.open_tensors(source)
  found = safetensors_io.open_tensors(out)
  assert found.keys() == expected.keys()
  for name, tensor in expected.items():
    assert found[name].dtype == tensor.dtype
    assert found[name][...].tobytes() == tensor[...].tobytes(), name


def ship(source, out, dtype):
  """Imports a folder as `dtype` and exports it again."""
  loaded = load.load_generator(source, dtype=dtype, param_dtype=dtype)
  export_generator(out, loaded.model, loaded.params, source, dtype)
  assert_same_files(source, out)
  return loaded


@pytest.mark.parametrize(
  ("sizes", "least"),
  [
    pytest.param({}, 0, id="tiny"),
    pytest.param(MEDIUM, 10**8, id="100M", marks=pytest.mark.slow),
  ],
)
def test_greedy_codes_are_those_of_transformers(tmp_path, sizes, least):
  theirs = tiny_janus.torch_model(**sizes)
  assert sum(p.numel() for p in theirs.parameters()) >= least
  source, out = tmp_path / "source", tmp_path / "out"
  tiny_janus.save(source, theirs)
  del theirs
  ours = ship(source, out, "float32")
  model, processor = hf_inference.load(out)
  theirs, drawn = torch_prompts(processor), set()
  for kind, (ids, seen) in prompts(ours.processor).items():
    prompt = theirs[kind]
    assert prompt["input_ids"][0].tolist() == ids
    expected = hf_inference.sample_codes(
      model, prompt["input_ids"], prompt.get("pixel_values"), num=1, greedy=True
    )
    found = greedy_codes(ours.model, ours.params, as_prompt(ids, seen))
    np.testing.assert_array_equal(found, expected, err_msg=kind)
    drawn.update(np.asarray(found).flat)
  assert len(drawn) > 5  # else it would mean little


NUM_CODES = 16  # of 576: the rest would take long and say the same
# A history of 2,900 tokens is read once, not twice: it takes minutes.
GUIDANCE = {"text": 5.0, "history": 1.0}


@pytest.mark.slow
def test_janus_pro_1b_in_bfloat16(tmp_path, monkeypatch):
  free, memory = shutil.disk_usage(tmp_path).free, available_memory()
  if free < 10 * GB or memory < 14 * GB:
    pytest.skip(
      "needs 10 GB of disk and 14 GB of memory; free are"
      f" {free / GB:.1f} and {memory / GB:.1f}"
    )
  source, out = tmp_path / "source", tmp_path / "out"
  save_janus_pro_1b(source)
  loaded = ship(source, out, "bfloat16")
  shutil.rmtree(source)
  theirs = drawn_by_torch(out, monkeypatch)
  gc.collect()
  exact = loaded.model.with_compute(dtype="float32")
  for kind, (ids, seen) in prompts(loaded.processor).items():
    prompt = as_prompt(ids, seen)
    their_ids, expected, their_logits = theirs[kind]
    assert their_ids == ids
    branches = [prompt]
    if GUIDANCE[kind] != 1:
      branches.append(loaded.model.unconditional(prompt))
    logits = logits_of_one(loaded.model, loaded.params)
    same = np.mean(draw_greedily(logits, branches, GUIDANCE[kind]) == expected)
    # The logits of the same codes, by us, and without rounding.
    ours = logits(prompt, expected)
    del logits
    truth = logits_of_one(exact, loaded.params)(prompt, expected)
    scale = np.std(truth)
    error, their_error, apart = (
      np.sqrt(np.mean((a - b) ** 2)) / scale
      for a, b in ((ours, truth), (their_logits, truth), (ours, their_logits))
    )
    likeliest = np.mean(ours.argmax(-1) == their_logits.argmax(-1))
    print(
      f"{kind}: {same:.0%} of {NUM_CODES} greedy codes are the same, and"
      f" {likeliest:.0%} of the likeliest after the same codes. Logits differ"
      f" by {error:.4f} (we from float32), {their_error:.4f} (transformers from"
      f" float32), {apart:.4f} (we from them) standard deviations"
    )
    assert len(np.unique(expected)) > 5
    # Rounding, and no more of it than transformers has.
    assert error < 1.5 * their_error
    assert their_error < 0.1
    assert likeliest > 0.7


def save_janus_pro_1b(folder):
  """Saves random weights in the sizes of Janus-Pro-1B, in bfloat16."""
  model = random_janus.janus_pro_1b()
  model.save_pretrained(folder, max_shard_size="2GB")
  assert len(list(folder.glob("*.safetensors"))) == 3
  tiny_janus.save_settings(folder, side=384)


def drawn_by_torch(folder, monkeypatch):
  """Returns {kind: (ids, codes [I], logits [I, C])} of transformers."""
  model, processor = hf_inference.load(folder, "bfloat16")
  monkeypatch.setattr(
    torch_sampling, "codes_per_image", lambda model: NUM_CODES
  )
  logits, drawn = [], {}
  model.model.generation_head.register_forward_hook(
    lambda module, inputs, output: logits.append(output[:1].float())
  )
  for kind, prompt in torch_prompts(processor).items():
    logits.clear()
    codes = hf_inference.sample_codes(
      model,
      prompt["input_ids"],
      prompt.get("pixel_values"),
      num=1,
      guidance=GUIDANCE[kind],
      greedy=True,
    )
    drawn[kind] = (
      prompt["input_ids"][0].tolist(),
      codes[0].numpy(),
      torch.cat(logits).numpy(),
    )
  return drawn


def logits_of_one(model, params):
  """Returns (prompt, codes [I]) -> the logits [I, C] before each of them."""

  @jax.jit
  def run(params, prompt, codes):
    return code_logits(model, params, prompt, codes)

  def logits(prompt, codes):
    codes = jnp.asarray(codes, jnp.int32)[None, None]
    return np.asarray(run(params, prompt, codes)[0, 0])

  return logits


def draw_greedily(logits, branches, guidance):
  """Returns the first codes [I] after a prompt with and without its content.

  All are computed anew for each: a cache would need the weights once more, and
  smaller models have shown that it changes nothing.
  """
  codes = np.zeros(NUM_CODES, np.int32)
  for i in range(NUM_CODES):
    both = [logits(prompt, codes)[i] for prompt in branches]
    best = sampling.guide(*both, guidance) if guidance != 1 else both[0]
    codes[i] = best.argmax()
  return codes
