"""The shipped checkpoints: small, whole, and readable by transformers."""

import numpy as np
import pytest
import torch
import transformers

from genrec_jax.data import world
from genrec_jax.hf.load import ASSETS, load_clip, load_generator


def test_they_are_at_most_8_mib_in_all():
  sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()]
  assert sum(sizes) <= 8 * 2**20


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("tiny_base", transformers.JanusForConditionalGeneration),
    ("tiny_sft", transformers.JanusForConditionalGeneration),
    ("tiny_clip", transformers.CLIPModel),
  ],
)
def test_transformers_loads_all_of_it(name, kind):
  model, info = kind.from_pretrained(
    ASSETS / name, output_loading_info=True, dtype=torch.float32
  )
  assert not info["missing_keys"]
  assert not info["unexpected_keys"]
  assert not info["mismatched_keys"]
  ours = load_generator if name != "tiny_clip" else load_clip
  ours(ASSETS / name, dtype="float32")
  assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_tokenizer_of_images_redraws_every_attribute():
  loaded = load_generator("tiny_base", dtype="float32")
  truth = world.attributes(np.arange(0, world.NUM_ITEMS, 24))
  pixels = world.render(truth).astype(np.float32) / 255
  codes = loaded.model.encode_pixels(loaded.params, pixels)
  drawn = np.asarray(loaded.model.decode_pixels(loaded.params, codes))
  shown = world.read(np.round(255 * drawn).astype(np.uint8))
  assert np.mean(shown == truth) >= 0.97
