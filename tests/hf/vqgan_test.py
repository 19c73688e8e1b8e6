import jax
import numpy as np
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.hf import rules, safetensors_io, write_model
from genrec_jax.hf import vqgan as hf_vqgan
from genrec_jax.models.vqgan import VQGAN
from tests.hf.tiny_janus import values

SECTION = {
  "base_channels": 32,
  "channel_multiplier": [1, 2],
  "num_res_blocks": 1,
  "num_embeddings": 16,
}


def _params(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


def test_config_defaults_are_janus_pro():
  assert hf_vqgan.config_from_hf({}) == VQGAN()
  found = hf_vqgan.config_from_hf(SECTION, dtype="bfloat16")
  assert found == VQGAN(
    base_channels=32,
    channel_multiplier=(1, 2),
    num_res_blocks=1,
    num_embeddings=16,
    dtype="bfloat16",
  )


def test_all_that_is_unsupported_in_one_message():
  with pytest.raises(UserError, match=r"double_latent.*base_channels is 48"):
    hf_vqgan.config_from_hf({"double_latent": True, "base_channels": 48})


def test_written_and_read_under_a_prefix(tmp_path):
  model = hf_vqgan.config_from_hf(SECTION)
  params = {"tokenizer": _params(model)}
  table = rules.prefixed(hf_vqgan.rules(model), "model.vqmodel.", "tokenizer/")
  write_model.write(tmp_path / "m", {}, rules.to_hf(table, params))
  tensors = safetensors_io.open_tensors(tmp_path / "m")
  assert "model.vqmodel.decoder.up.1.block.0.nin_shortcut.weight" in tensors
  back = values(rules.to_params(table, tensors, params))
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_checkpoint_of_another_size_is_refused():
  small = hf_vqgan.config_from_hf(SECTION)
  tensors = rules.to_hf(hf_vqgan.rules(small), _params(small))
  large = hf_vqgan.config_from_hf({**SECTION, "num_res_blocks": 2})
  expected = jax.eval_shape(large.init, jax.random.key(0))
  with pytest.raises(UserError) as error:
    rules.to_params(hf_vqgan.rules(large), tensors, expected)
  assert "encoder.down.1.attn.1.q.weight: missing" in str(error.value)
  assert "decoder.up.0.block.2.conv2.bias: missing" in str(error.value)
