"""Emu3's image tokenizer against transformers', which works in 3-D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.emu3.configuration_emu3 import Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

from genrec_jax.core import sharding, tree
from genrec_jax.hf import movqgan as hf_movqgan
from genrec_jax.hf import rules
from genrec_jax.models import movqgan, movqgan_layers
from tests.hf import random_emu3
from tests.hf.tiny_janus import values

CONFIGS = {
  "as_published": {  # two halvings of time: both kinds of folded taps
    "codebook_size": 50,
    "base_channels": 32,
    "channel_multiplier": [1, 3, 2],
    "num_res_blocks": 1,
    "temporal_downsample_factor": 4,
  },
  "eight_frames": {
    "codebook_size": 33,
    "embed_dim": 3,
    "latent_channels": 3,
    "base_channels": 32,
    "channel_multiplier": [2, 1],
    "num_res_blocks": 2,
    "temporal_downsample_factor": 8,
  },
  "one_frame": {
    "codebook_size": 17,
    "embed_dim": 5,
    "latent_channels": 5,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "temporal_downsample_factor": 1,
  },
}
SIZES = [(12, 20), (4, 4), (28, 8)]  # pixels, h and w: multiples of 4


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request):
  """Returns (torch model, our model, our params)."""
  options = CONFIGS[request.param]
  config = Emu3VQVAEConfig(**random_emu3.vq_sizes(options))
  torch.manual_seed(0)
  theirs = random_emu3.randomised_vq(Emu3VQVAE(config).eval())
  ours = hf_movqgan.config_from_hf(config.to_dict())
  tensors = {
    k: v.numpy()
    for k, v in theirs.state_dict().items()
    if not k.endswith("num_batches_tracked")
  }
  expected = jax.eval_shape(ours.init, jax.random.key(0))
  return (
    theirs,
    ours,
    values(rules.to_params(hf_movqgan.rules(ours), tensors, expected)),
  )


def _pixels(size, count=3):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (count, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_encode_gives_identical_codes(pair, size):
  theirs, ours, params = pair
  pixels = _pixels(size)
  with torch.no_grad():
    encoded = theirs.encode(
      torch.tensor(pixels.transpose(0, 3, 1, 2)), torch.tensor([size] * 3)
    )
    latents = theirs.quant_conv(encoded.last_hidden_state.swapaxes(1, 2))
  expected = latents[:, :, 0].numpy().transpose(0, 2, 3, 1)
  found = jax.jit(ours.latents)(params, pixels)
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
  codes = jax.jit(ours.encode)(params, pixels)
  assert codes.dtype == jnp.int32
  np.testing.assert_array_equal(codes, torch.stack(encoded.image_tokens))
  # Else agreement would mean little.
  assert len(np.unique(codes)) >= min(5, codes.size // 4)


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (4, 2)])
def test_decode_matches(pair, grid):
  theirs, ours, params = pair
  codes = np.random.default_rng(1).integers(0, ours.codebook_size, (2, *grid))
  with torch.no_grad():
    expected = theirs.decode(torch.tensor(codes)).numpy()
  found = jax.jit(ours.decode)(params, codes)
  height, width = (ours.downsampling * n for n in grid)
  assert found.shape == (2, height, width, 3)
  assert np.std(found) > 0.05  # not a trivial image
  np.testing.assert_allclose(
    found, expected.transpose(0, 2, 3, 1), atol=1e-4, rtol=0
  )


def test_frames_that_are_equal_are_convolved_once(pair):
  """At most two convolutions a halving: a quarter of the work and less."""
  _, ours, params = pair
  pixels = jnp.asarray(_pixels((8, 8), 1))
  text = jax.jit(ours.latents).lower(params, pixels).as_text()
  halvings = ours.temporal_downsample_factor.bit_length() - 1
  found = text.count("stablehlo.convolution")
  blocks = 2 * ours.num_res_blocks
  levels = len(ours.channel_multiplier)
  flat = 2 + 2 * 2 + levels * blocks + levels - 1  # ends, middle, halvings
  # Of two different ones each, see `_convolve`.
  frames = {0: 0, 2: 4, 3: 8}[halvings]
  assert found <= flat + frames + blocks + 1


def test_a_size_that_does_not_fit_is_refused(pair):
  _, ours, params = pair
  with pytest.raises(ValueError, match=r"image of 4x7 pixels; expected mult"):
    ours.latents(params, np.zeros((1, 4, 7, 3), np.float32))


def test_gradients_reach_the_vectors(pair):
  _, ours, params = pair
  vectors = ours.lookup(params, np.asarray([[[1, 2], [0, 3]]]))
  slope = jax.jit(jax.grad(lambda v: ours.decode_latents(params, v).mean()))(
    vectors
  )
  assert np.all(np.abs(slope).max(-1) > 0)


def test_a_batch_norm_is_torch_s_where_little_varies():
  """Variances like the constant that is added to them, which others hide."""
  theirs = torch.nn.BatchNorm2d(3).eval()
  with torch.no_grad():
    theirs.running_var.copy_(torch.tensor([1e-6, 1e-5, 1e-4]))
  params = {
    "scale": theirs.weight,
    "bias": theirs.bias,
    "mean": theirs.running_mean,
    "var": theirs.running_var,
  }
  params = {name: value.detach().numpy() for name, value in params.items()}
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
  found = movqgan_layers.BatchNorm("float32").apply({"params": params}, x)
  with torch.no_grad():
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
  np.testing.assert_allclose(
    found, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5
  )


def test_every_parameter_has_one_layout(pair):
  ours = pair[1]
  params = jax.eval_shape(ours.init, jax.random.key(0))
  specs = sharding.specs(movqgan.RULES, params)
  assert jax.tree.structure(specs) == jax.tree.structure(params)


def test_the_published_tokenizer_has_its_size():
  model = hf_movqgan.config_from_hf(Emu3VQVAEConfig().to_dict())
  assert model == movqgan.MoVQGAN()
  params = jax.eval_shape(model.init, jax.random.key(0))
  with torch.device("meta"):
    theirs = Emu3VQVAE(Emu3VQVAEConfig())
  tensors = {
    k: jax.ShapeDtypeStruct(tuple(v.shape), np.float32)
    for k, v in theirs.state_dict().items()
    if not k.endswith("num_batches_tracked")
  }
  stored = rules.to_params(hf_movqgan.rules(model), tensors, params)
  names = [n for s in tree.flatten(stored).values() for n in s.names]
  assert sorted(names) == sorted(tensors)
