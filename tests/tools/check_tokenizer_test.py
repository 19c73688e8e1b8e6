"""The tool from the command line, on a codebook of unequal lengths."""

import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest
from safetensors.torch import load_file, save_file
import torch

from genrec_jax.data import world
from genrec_jax.hf import janus, load, locate
from tools import hf_inference

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "check_tokenizer.py"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
  """Returns tiny_sft with codebook vectors of .1 to 1 times their length."""
  folder = tmp_path_factory.mktemp("uneven") / "model"
  shutil.copytree(locate.ASSETS / "tiny_sft", folder)
  tensors = load_file(folder / "model.safetensors")
  book = tensors["model.vqmodel.quantize.embedding.weight"]
  rng = torch.Generator().manual_seed(0)
  book *= 0.1 + 0.9 * torch.rand((len(book), 1), generator=rng).to(book.dtype)
  save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures")
  renders = world.render(world.attributes(np.arange(0, 2880, 240)))
  for i, render in enumerate(renders):  # those of the crop, with bars beside it
    Image.fromarray(np.pad(render, ((8, 8), (0, 0), (0, 0)))).save(
      folder / f"{i:02d}.png"
    )
  return folder, renders


def run(*flags):
  return subprocess.run(
    [sys.executable, TOOL, "--clip=tiny_clip", *flags],
    check=False,
    capture_output=True,
    text=True,
  )


def test_both_rules_are_told(uneven, pictures):
  folder, renders = pictures
  (folder / "text.png").write_text("no image")
  done = run(f"--model={uneven}", f"--images={folder}")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0] == f"12 images of {folder}, 1 more could not be read"
  low, high, mean = map(float, re.findall(r"\d\.\d+", lines[1]))
  assert low < 0.3 < mean < 0.9 < high
  values = [re.findall(r"[-\d.]+(?= dB|$)", line) for line in lines[3:5]]
  (psnr, cosine), (other_psnr, other_cosine) = (map(float, v) for v in values)
  # By direction nothing has changed: what the even codebook gives.
  loaded = load.load_generator("tiny_sft", dtype="float32")
  model, params = loaded.model, loaded.params
  real = renders / np.float32(255)
  codes = np.asarray(jax.jit(model.encode_pixels)(params, real))
  again = jax.jit(model.decode_pixels)(params, codes)
  error = np.mean((again - real) ** 2, (1, 2, 3))
  assert psnr == pytest.approx(-10 * np.log10(error).mean(), abs=0.006)
  assert other_psnr < psnr - 1
  assert other_cosine < cosine
  # By distance: what transformers makes of them.
  theirs = hf_inference.load(uneven)[0].model.vqmodel
  with torch.no_grad():
    pixels = torch.tensor(real.transpose(0, 3, 1, 2) * 2 - 1)
    expected = theirs.encode(pixels).image_tokens.numpy()
  differ = np.mean(expected.reshape(codes.shape) != codes)
  assert 0.02 < differ < 1
  told = float(lines[5].removeprefix("codes that differ: ").rstrip("%")) / 100
  assert told == pytest.approx(differ, abs=0.011)  # two of 192 may tie


def test_what_cannot_be_is_refused(tmp_path):
  for flags, message in (
    ([f"--images={tmp_path}"], "expected a folder of images"),
    ([f"--images={tmp_path}", "--num=0"], "num"),
    ([], "--images"),
  ):
    done = run("--model=tiny_sft", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_lengths_that_rounding_explains_are_one_length(uneven):
  line, differ = janus.codebook_lengths(
    load.open_generator("tiny_sft", dtype="float32").stored
  )
  assert not differ  # bfloat16 alone makes them .9976 to 1.0027
  assert line.startswith("codebook: 32 vectors of length 0.99")
  _, differ = janus.codebook_lengths(
    load.open_generator(uneven, dtype="float32").stored
  )
  assert differ
