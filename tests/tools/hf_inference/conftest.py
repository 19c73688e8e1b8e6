"""A tiny Janus as torch reads it, and images of odd sizes."""

import numpy as np
import PIL.Image
import pytest

from genrec_jax.hf.janus_processor import CHAT
from tests.hf import tiny_janus
from tools import hf_inference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tiny_janus.save(tmp_path_factory.mktemp("janus"))
  (folder / "chat_template.jinja").write_text(CHAT)
  return folder


@pytest.fixture(scope="module")
def theirs(folder):
  return hf_inference.load(folder)


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
  """Returns files of a tall, a wide and a square image in odd modes."""
  folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
  paths = []
  for width, height, mode in ((31, 40, "RGB"), (50, 9, "P"), (20, 20, "L")):
    pixels = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), "uint8")
    image = PIL.Image.fromarray(pixels).resize((width, height), 0)
    paths.append(folder / f"{width}.png")
    image.convert(mode).save(paths[-1])
  return paths
