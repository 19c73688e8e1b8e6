"""CLIP against transformers', on sizes that fit nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import (
  CLIPImageProcessorPil,
)

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.hf import clip as hf_clip
from genrec_jax.hf import rules
from genrec_jax.models import clip
from tests import rounding
from tests.hf.tiny_janus import values

CONFIGS = {
  # Text and vision differ in every size; 31 pixels are 4 patches and a rest.
  "quick_gelu": {
    "projection_dim": 20,
    "text_config": {
      "vocab_size": 61,
      "hidden_size": 48,
      "intermediate_size": 56,
      "num_hidden_layers": 3,
      "num_attention_heads": 6,
      "max_position_embeddings": 13,
      "eos_token_id": 57,
      "layer_norm_eps": 1e-4,
    },
    "vision_config": {
      "hidden_size": 40,
      "intermediate_size": 72,
      "num_hidden_layers": 2,
      "num_attention_heads": 5,
      "image_size": 31,
      "patch_size": 7,
    },
  },
  "gelu_and_old_end_token": {
    "projection_dim": 12,
    "text_config": {
      "vocab_size": 40,
      "hidden_size": 24,
      "intermediate_size": 40,
      "num_hidden_layers": 1,
      "num_attention_heads": 3,
      "max_position_embeddings": 9,
      "eos_token_id": 2,
      "hidden_act": "gelu",
    },
    "vision_config": {
      "hidden_size": 32,
      "intermediate_size": 24,
      "num_hidden_layers": 2,
      "num_attention_heads": 2,
      "image_size": 24,
      "patch_size": 8,
      "hidden_act": "gelu",
    },
  },
}
# The sums that a value passes, see tests/rounding.py, in the larger tower: two
# norms, three products, the MLP, a score, the softmax and the sum over keys.
TERMS = 3 * (5 * 48 + 56 + 8 + 2 * 13)


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request):
  """Returns (torch model, our model, our params)."""
  torch.manual_seed(0)
  config = CLIPConfig(**CONFIGS[request.param])
  theirs = CLIPModel(config).eval()
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      if name != "logit_scale":  # norms and biases start trivial
        parameter.add_(0.1 * torch.randn_like(parameter))
  ours = hf_clip.config_from_hf(config.to_dict())
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  params = rules.to_params(hf_clip.rules(ours), tensors, expected)
  return theirs, ours, values(params)


def _unit(features):
  vectors = features.pooler_output
  return (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()


def test_images_match(pair):
  theirs, ours, params = pair
  size = ours.image_size
  rng = np.random.default_rng(0)
  pixels = rng.uniform(0, 1, (2, 3, size, size, 3)).astype(np.float32)
  normalised = (pixels - np.reshape(ours.image_mean, (1, 1, 1, 1, 3))) / (
    np.reshape(ours.image_std, (1, 1, 1, 1, 3))
  )
  flat = normalised.reshape(-1, size, size, 3).transpose(0, 3, 1, 2)
  expected = _unit(
    theirs.get_image_features(torch.tensor(flat, dtype=torch.float32))
  )
  found = jax.jit(ours.embed_images)(params, pixels)
  assert found.shape == (2, 3, ours.projection_dim)
  rounding.assert_close(found, expected.reshape(found.shape), terms=TERMS)


def _texts(model, width):
  """Returns ids and mask: full, right-padded, left-padded, no padding mask."""
  end = model.eos_token_id if model.eos_token_id != 2 else model.vocab_size - 1
  rng = np.random.default_rng(0)
  ids = rng.integers(3, end, (5, width))
  mask = np.ones((5, width), bool)
  ids[0, -1] = end
  ids[1, 3:], mask[1, 4:] = end, False  # padded with the end token
  ids[2, 4], ids[2, 5:], mask[2, 5:] = end, 0, False
  ids[3, :3], ids[3, -1], mask[3, :3] = 1, end, False
  ids[4, 2] = ids[4, 5] = end  # two ends: the first counts
  return ids, mask


def test_texts_match(pair):
  theirs, ours, params = pair
  ids, mask = _texts(ours, 7)
  expected = _unit(
    theirs.get_text_features(
      torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))
    )
  )
  found = jax.jit(ours.embed_texts)(params, ids, mask)
  rounding.assert_close(found, expected, terms=TERMS)


def test_similarities_match(pair):
  theirs, ours, params = pair
  ids, _ = _texts(ours, ours.max_position_embeddings)
  size = ours.image_size
  pixels = np.random.default_rng(2).uniform(0, 1, (3, size, size, 3))
  images = ours.preprocessing(pixels)
  with torch.no_grad():
    expected = theirs(
      input_ids=torch.tensor(ids),
      pixel_values=torch.tensor(np.array(images).transpose(0, 3, 1, 2)),
    ).logits_per_text.numpy()
  texts = jax.jit(ours.embed_texts)(params, ids, np.ones(ids.shape, bool))
  found = np.exp(params["logit_scale"]) * np.array(
    texts @ jax.jit(ours.embed_images)(params, pixels).T
  )
  np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_end_token_missing_reads_the_first_position(pair):
  # Not a case to rely on, only one not to differ in.
  theirs, ours, params = pair
  ids = np.full((1, 4), 3)
  expected = _unit(theirs.get_text_features(torch.tensor(ids)))
  found = jax.jit(ours.embed_texts)(params, ids, np.ones((1, 4), bool))
  rounding.assert_close(found, expected, terms=TERMS)


def test_padding_changes_nothing(pair):
  _, ours, params = pair
  ids, mask = _texts(ours, 7)
  embed = jax.jit(ours.embed_texts)
  short = embed(params, ids[2:3, :5], mask[2:3, :5])
  padded = embed(params, ids[2:3], mask[2:3])
  rounding.assert_close(short, padded, terms=TERMS)
  # What a causal mask hides may hold anything; what it shows may not.
  other = ids[2:3].copy()
  other[0, 1] = 3 + (other[0, 1] == 3)
  changed = embed(params, other, mask[2:3])
  assert np.abs(changed - padded).max() > 1e-3


def test_leading_axes_of_texts(pair):
  _, ours, params = pair
  ids, mask = _texts(ours, 7)
  embed = jax.jit(ours.embed_texts)
  flat = embed(params, ids, mask)
  stacked = embed(params, np.stack([ids] * 2), np.stack([mask] * 2))
  rounding.assert_close(stacked[1], flat, terms=TERMS)
  np.testing.assert_allclose(np.linalg.norm(flat, axis=-1), 1, atol=1e-6)


def test_text_too_long_is_refused(pair):
  _, ours, params = pair
  ids = np.ones((1, ours.max_position_embeddings + 1), np.int32)
  with pytest.raises(ValueError, match="expected at most"):
    ours.embed_texts(params, ids, ids == 1)


def _smooth(height, width):
  """Returns a uint8 image without the ringing that integers would clip."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  image = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x) * np.cos(7 * y)], -1)
  return np.round(255 * (0.1 + 0.8 * image)).astype(np.uint8)


@pytest.mark.parametrize(
  "shape", [(32, 32), (60, 60), (48, 37), (37, 90), (24, 24), (24, 50)]
)
def test_preprocessing_matches_the_image_processor(shape):
  model = hf_clip.config_from_hf(
    {"model_type": "clip", "vision_config": {"image_size": 24, "patch_size": 8}}
  )
  image = _smooth(*shape)
  processor = CLIPImageProcessorPil(
    size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
  )
  expected = processor(Image.fromarray(image), return_tensors="np")[
    "pixel_values"
  ][0].transpose(1, 2, 0)
  found = model.preprocessing(image[None].astype(np.float32) / 255)[0]
  assert found.shape == (24, 24, 3)
  # Pillow rounds to whole levels after each of its two passes.
  level = 1 / 255 / min(model.image_std)
  np.testing.assert_allclose(found, expected, atol=1.1 * level, rtol=0)


def test_preprocessing_stays_in_range():
  model = hf_clip.config_from_hf({"model_type": "clip"})
  edge = np.zeros((1, 32, 32, 3), np.float32)
  edge[:, :, 16:] = 1
  back = model.preprocessing(edge) * jnp.array(model.image_std).reshape(
    1, 1, 1, 3
  ) + jnp.array(model.image_mean).reshape(1, 1, 1, 3)
  assert back.shape == (1, 224, 224, 3)
  assert back.min() > -1e-6
  assert back.max() < 1 + 1e-6


def test_export_is_bit_identical(pair):
  theirs, ours, params = pair
  original = {k: v.numpy() for k, v in theirs.state_dict().items()}
  tensors = rules.to_hf(hf_clip.rules(ours), params)
  assert tensors.keys() == original.keys()
  for name, value in original.items():
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_contrastive_loss_has_finite_gradients(pair):
  _, ours, params = pair
  ids, mask = _texts(ours, 7)
  size = ours.image_size
  pixels = jax.random.uniform(jax.random.key(2), (5, size, size, 3))

  @jax.jit
  def gradient(params):
    def loss(params):
      images = ours.embed_images(params, pixels)
      texts = ours.embed_texts(params, ids, mask)
      logits = jnp.exp(params["logit_scale"]) * images @ texts.T
      return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))

    return jax.grad(loss)(params)

  for path, leaf in tree.flatten(gradient(params)).items():
    assert np.all(np.isfinite(leaf)), path
    assert np.any(leaf != 0) or path.endswith("k_proj/bias"), path


def test_random_parameters_embed_as_unit_vectors(pair):
  _, ours, params = pair
  fresh = jax.jit(ours.init)(jax.random.key(0))
  assert not tree.diff(params, fresh)
  ids, mask = _texts(ours, 7)
  found = jax.jit(ours.embed_texts)(fresh, ids, mask)
  np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)


def test_bfloat16_stays_close(pair):
  _, ours, params = pair
  half = dataclasses.replace(ours, dtype="bfloat16")
  ids, mask = _texts(ours, 7)
  exact = jax.jit(ours.embed_texts)(params, ids, mask)
  rough = jax.jit(half.embed_texts)(params, ids, mask)
  assert rough.dtype == jnp.float32
  assert np.min(np.sum(exact * rough, axis=-1)) > 0.995


def test_eight_devices_equal_one(pair):
  _, ours, params = pair
  mesh = mesh_lib.make_mesh(4, 2)
  layout = sharding.shardings(mesh, sharding.specs(clip.RULES, params))
  spread = jax.device_put(params, layout)
  ids, mask = _texts(ours, 7)
  ids, mask = np.resize(ids, (8, 7)), np.resize(mask, (8, 7))
  batch = jax.NamedSharding(mesh, sharding.BATCH)
  found = jax.jit(ours.embed_texts, in_shardings=(layout, batch, batch))(
    spread, ids, mask
  )
  expected = jax.jit(ours.embed_texts)(params, ids, mask)
  rounding.assert_close(found, expected, terms=TERMS)


@pytest.mark.parametrize(
  ("preset", "count", "width"),
  [(clip.vit_b_32, 151_277_313, 512), (clip.vit_l_14, 427_616_513, 768)],
)
def test_published_sizes_and_their_sharding(preset, count, width):
  model = preset()
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  sharding.specs(clip.RULES, params)
  pixels = jax.ShapeDtypeStruct((4, 384, 384, 3), jnp.float32)
  found = jax.eval_shape(model.embed_images, params, pixels)
  assert found.shape == (4, width)


def test_bad_tower_is_refused():
  with pytest.raises(ValueError, match=r"multiple.*; activation 'relu'"):
    clip.Tower(10, 20, 1, 3, "relu")
