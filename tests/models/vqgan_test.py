"""The image tokenizer against transformers', on sizes that fit nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from genrec_jax.core import sharding, tree
from genrec_jax.hf import rules
from genrec_jax.hf import vqgan as hf_vqgan
from genrec_jax.models import vqgan
from tests.hf.tiny_janus import values

CONFIGS = {
  "three_levels": {
    "embed_dim": 6,
    "num_embeddings": 50,
    "latent_channels": 24,
    "base_channels": 32,
    "channel_multiplier": [1, 3, 2],
    "num_res_blocks": 1,
    "num_patches": 4,
  },
  "two_blocks": {
    "embed_dim": 5,
    "num_embeddings": 33,
    "latent_channels": 40,
    "base_channels": 64,
    "channel_multiplier": [2, 1],
    "num_res_blocks": 2,
    "num_patches": 5,
  },
  "one_level": {
    "embed_dim": 8,
    "num_embeddings": 16,
    "latent_channels": 32,
    "base_channels": 32,
    "channel_multiplier": [1],
    "num_res_blocks": 0,
    "num_patches": 6,
  },
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request):
  """Returns (torch model, our model, our params, image side)."""
  config = JanusVQVAEConfig(**CONFIGS[request.param])
  torch.manual_seed(0)
  theirs = JanusVQVAE(config).eval()
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      if parameter.ndim == 1:  # norms and biases start trivial
        parameter.add_(0.3 * torch.randn_like(parameter))
      elif "quantize" in name:
        parameter.normal_()  # far from unit length
      else:  # the torch default keeps activations of order one
        parameter.mul_(0.02**-1 * parameter[0].numel() ** -0.5)
  # transformers' rule, for a codebook far from one length; see `quantize`.
  ours = hf_vqgan.config_from_hf(config.to_dict(), l2_norm=False)
  tensors = {k: v.numpy() for k, v in theirs.state_dict().items()}
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  params = values(rules.to_params(hf_vqgan.rules(ours), tensors, expected))
  return theirs, ours, params, config.num_patches * ours.downsampling


def _pixels(side, count=3):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def test_encode_gives_identical_codes(pair):
  theirs, ours, params, side = pair
  pixels = _pixels(side)
  with torch.no_grad():
    encoded = theirs.encode(torch.tensor(pixels.transpose(0, 3, 1, 2)))
  codes = jax.jit(ours.encode)(params, pixels)
  assert codes.dtype == jnp.int32
  np.testing.assert_array_equal(
    codes.reshape(-1), encoded.image_tokens.numpy().reshape(-1)
  )
  assert len(np.unique(codes)) > 3  # else agreement would mean little


def test_latents_match(pair):
  theirs, ours, params, side = pair
  pixels = _pixels(side)
  with torch.no_grad():
    hidden = theirs.encoder(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    expected = theirs.quant_conv(hidden).numpy().transpose(0, 2, 3, 1)
  found = jax.jit(ours.latents)(params, pixels)
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_decode_matches(pair):
  theirs, ours, params, side = pair
  grid = side // ours.downsampling
  codes = np.random.default_rng(1).integers(
    0, ours.num_embeddings, (2, grid, grid)
  )
  with torch.no_grad():
    expected = theirs.decode(torch.tensor(codes.reshape(2, -1)))
  found = jax.jit(ours.decode)(params, codes)
  assert found.shape == (2, side, side, 3)
  assert np.std(found) > 0.05  # not a trivial image
  np.testing.assert_allclose(
    found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4, rtol=0
  )


def test_decode_is_lookup_then_decode_latents(pair):
  _, ours, params, _ = pair
  codes = np.arange(8).reshape(2, 2, 2)
  latents = ours.lookup(params, codes)
  np.testing.assert_allclose(np.linalg.norm(latents, axis=-1), 1, atol=1e-6)
  np.testing.assert_allclose(
    jax.jit(ours.decode_latents)(params, latents),
    jax.jit(ours.decode)(params, codes),
    atol=1e-5,
  )


def test_export_is_bit_identical(pair):
  theirs, ours, params, _ = pair
  tensors = rules.to_hf(hf_vqgan.rules(ours), params)
  original = {k: v.numpy() for k, v in theirs.state_dict().items()}
  assert tensors.keys() == original.keys()
  for name, value in original.items():
    assert tensors[name].dtype == value.dtype
    np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_exact_ties_go_to_the_first_code():
  model = vqgan.VQGAN(embed_dim=2)
  book = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
  codes = model.quantize(
    {"quantizer": {"embedding": book}}, jnp.array([[[[0.0, 2.0]]]])
  )
  assert codes.tolist() == [[[1]]]


def test_unequal_lengths_give_the_codes_of_deepseeks_rule(pair):
  # Written out from janus/models/vq_model.py, `VectorQuantizer.forward` with
  # `l2_norm`: both sides normalised, then the smallest squared distance.
  theirs, ours, params, side = pair
  with torch.no_grad():
    hidden = theirs.encoder(torch.tensor(_pixels(side).transpose(0, 3, 1, 2)))
    z = theirs.quant_conv(hidden).permute(0, 2, 3, 1)
    z = torch.nn.functional.normalize(z, p=2, dim=-1).flatten(0, 2)
    book = theirs.quantize.embedding.weight
    book = torch.nn.functional.normalize(book, p=2, dim=-1)
    squares = (z**2).sum(1, keepdim=True) + (book**2).sum(1)
    expected = (squares - 2 * z @ book.T).argmin(1).numpy()
  model = hf_vqgan.config_from_hf(_as_config(ours))  # as checkpoints are loaded
  codes = jax.jit(model.encode)(params, _pixels(side))
  np.testing.assert_array_equal(codes.reshape(-1), expected)
  unnormalised = jax.jit(ours.encode)(params, _pixels(side))
  assert (codes != unnormalised).any()  # else agreement would mean little


@pytest.mark.parametrize(("l2_norm", "code"), [(True, 0), (False, 1)])
def test_quantize_compares_directions_or_distances(l2_norm, code):
  # By direction the first entry is the nearest, by distance the second.
  model = vqgan.VQGAN(embed_dim=2, l2_norm=l2_norm)
  params = {"quantizer": {"embedding": jnp.array([[9.0, 0.0], [0.5, 0.5]])}}
  assert model.quantize(params, jnp.array([[[[1.0, 0.0]]]])).item() == code


def test_equal_lengths_give_one_code_by_both_rules():
  rng = np.random.default_rng(0)
  book = rng.normal(size=(64, 5))
  book *= 3 / np.linalg.norm(book, axis=-1, keepdims=True)
  params = {"quantizer": {"embedding": jnp.asarray(book, jnp.float32)}}
  latents = jnp.asarray(rng.normal(size=(2, 9, 9, 5)), jnp.float32)
  np.testing.assert_array_equal(
    *(
      vqgan.VQGAN(embed_dim=5, l2_norm=l2_norm).quantize(params, latents)
      for l2_norm in (True, False)
    )
  )


def test_random_parameters_draw_an_image():
  model = hf_vqgan.config_from_hf(CONFIGS["one_level"])
  params = jax.jit(model.init)(jax.random.key(0))
  norms = np.linalg.norm(params["quantizer"]["embedding"], axis=-1)
  np.testing.assert_allclose(norms, 1, atol=1e-6)
  images = jax.jit(model.decode)(params, np.zeros((1, 6, 6), np.int32))
  assert np.std(images) > 0.01


def test_training_path_has_finite_gradients():
  config = hf_vqgan.config_from_hf(
    {**CONFIGS["two_blocks"], "num_res_blocks": 1}
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape, scale=0.1).astype(leaf.dtype),
    jax.eval_shape(config.init, jax.random.key(0)),
  )
  pixels = _pixels(8, 1)

  @jax.jit
  def gradient(params):
    def loss(params):
      latents = config.latents(params, pixels)
      entries = config.lookup(params, config.quantize(params, latents))
      through = latents + jax.lax.stop_gradient(entries - latents)
      error = jnp.mean((config.decode_latents(params, through) - pixels) ** 2)
      return error + jnp.mean((jax.lax.stop_gradient(latents) - entries) ** 2)

    return jax.grad(loss)(params)

  for path, leaf in tree.flatten(gradient(params)).items():
    assert np.all(np.isfinite(leaf)), path
    # A key's bias shifts every weight of a softmax alike: gradient zero.
    if not path.endswith("/k/bias"):
      assert np.any(leaf != 0), path


def test_bfloat16_stays_close(pair):
  _, ours, params, side = pair
  half = hf_vqgan.config_from_hf(_as_config(ours), dtype="bfloat16")
  latents = jax.jit(ours.latents)(params, _pixels(side))
  rough = jax.jit(half.latents)(params, _pixels(side))
  assert rough.dtype == jnp.float32
  error = np.sqrt(np.mean((latents - rough) ** 2)) / np.std(latents)
  assert error < 0.05


def _as_config(model):
  ours = ("dtype", "l2_norm")  # not of HF configs
  return {k: v for k, v in vars(model).items() if k not in ours}


def test_image_of_another_size_is_refused():
  with pytest.raises(ValueError, match="12x16 pixels; expected multiples of 8"):
    vqgan.VQGAN(channel_multiplier=(1, 1, 1, 1)).latents(
      {}, jnp.zeros((1, 12, 16, 3))
    )


def test_published_size_and_its_sharding():
  # Janus-Pro: defaults of JanusVQVAEConfig.
  model = hf_vqgan.config_from_hf({})
  params = jax.eval_shape(model.init, jax.random.key(0))
  with torch.device("meta"):
    theirs = JanusVQVAE(JanusVQVAEConfig())
  count = sum(p.numel() for p in theirs.parameters())
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  sharding.specs(vqgan.RULES, params)
  codes = jax.ShapeDtypeStruct((2, 24, 24), jnp.int32)
  assert jax.eval_shape(model.decode, params, codes).shape == (2, 384, 384, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_rules_fit_every_size(name):
  model = hf_vqgan.config_from_hf(CONFIGS[name])
  params = jax.eval_shape(model.init, jax.random.key(0))
  sharding.specs(vqgan.RULES, params)
