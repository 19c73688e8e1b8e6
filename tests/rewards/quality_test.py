"""PickScore on checkpoints of its layout, at tiny width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import (
  CLIPImageProcessorPil,
)

from genrec_jax import testing
from genrec_jax.hf import encoders
from genrec_jax.rewards import cosines
from genrec_jax.targets import Targets, of_quality
from tests.hf import random_encoders

# Of different lengths, both with the token that ends them, and before it one of
# a higher id; what pads them has a lower one.
END, HIGHEST = (
  testing.word_tokenizer().get_vocab()[x] for x in ("comes", "next")
)
TITLES = ["large next red circle comes", "small blue cross on next mist comes"]


def checkpoint(folder, dtype, eos_token_id):
  """Writes a folder of PickScore_v1's layout; returns the torch model.

  That is OpenCLIP's ViT-H/14 in HF format: gelu, patches of 14 pixels, towers
  of two widths, and an end token that a text's states are read at.
  """
  tokenizer = testing.word_tokenizer(16)
  tower = {
    "hidden_act": "gelu",
    "num_hidden_layers": 2,
    "intermediate_size": 48,
  }
  torch.manual_seed(0)
  model = transformers.CLIPModel(
    transformers.CLIPConfig(
      projection_dim=20,
      logit_scale_init_value=4.1,
      text_config=tower
      | {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": eos_token_id,
      },
      vision_config=tower
      | {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
      },
    )
  )
  model = random_encoders.shaken(model).to(dtype)
  processor = CLIPImageProcessorPil(
    size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
  )
  random_encoders.save(folder, model, processor, tokenizer)
  return model.float()


# A text's states are those of this token; where a config says 2, as all did
# before transformers' PR 24773, they are those of the one with the highest id.
@pytest.mark.parametrize("eos_token_id", [END, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_as_its_authors_compute_it(tmp_path, dtype, eos_token_id):
  theirs = checkpoint(tmp_path, dtype, eos_token_id)
  handle = encoders.open_encoder(tmp_path, dtype="float32", kind="clip")
  model, params = handle.model, handle.read()
  assert params["logit_scale"].dtype == jnp.float32
  # Two titles, three images of each.
  images = np.random.default_rng(0).uniform(size=(2, 3, 40, 33, 3))
  images = images.astype(np.float32)
  tokens = handle.tokenizer(
    TITLES, padding=True, padding_side="right", return_tensors="np"
  )
  ids, mask = tokens["input_ids"], tokens["attention_mask"]
  assert np.argwhere(ids == END).tolist() == [[0, 4], [1, 6]]
  assert ids.argmax(1).tolist() == [1, 4]
  assert ids.max() == HIGHEST
  assert ids[0, 5:].tolist() == [2, 2]  # padding: no state of a text either
  unread = np.zeros((2, 0, 20), np.float32)
  targets = Targets(
    text=model.embed_texts(params, ids, mask > 0),
    history=unread,
    history_mask=unread[..., 0] > 0,
    future=unread,
    future_mask=unread[..., 0] > 0,
  )
  embeds = model.embed_images(params, images)
  rated = of_quality(targets, params["logit_scale"])
  found = jax.jit(cosines.quality)(embeds, rated)
  assert found.shape == (2, 3)
  pixels = np.asarray(model.preprocessing(images.reshape(-1, 40, 33, 3)))
  with torch.no_grad():  # the model card's own lines
    image_embs = theirs.get_image_features(
      torch.tensor(pixels.transpose(0, 3, 1, 2))
    ).pooler_output
    image_embs = image_embs / torch.norm(image_embs, dim=-1, keepdim=True)
    text_embs = theirs.get_text_features(
      torch.tensor(ids), attention_mask=torch.tensor(mask)
    ).pooler_output
    text_embs = text_embs / torch.norm(text_embs, dim=-1, keepdim=True)
    scores = theirs.logit_scale.exp() * (text_embs @ image_embs.T)
  expected = scores.numpy().reshape(2, 2, 3)[[0, 1], [0, 1]]
  # A cosine's 1e-5, times the scale.
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.exp(4.1), rtol=0)
