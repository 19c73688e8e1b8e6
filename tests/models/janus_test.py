"""Janus against transformers': what it reads, what it draws, code for code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from genrec_jax.core import sharding, tree
from genrec_jax.core.types import Prompt
from genrec_jax.models import janus, janus_presets
from tests import rounding
from tests.greedy import greedy_codes
from tests.hf import tiny_janus
from tests.logits import code_logits
from tools import hf_inference
from tools.hf_inference import sampling as torch_sampling

GUIDANCE = 5.0


@pytest.fixture(scope="module")
def pair():
  return tiny_janus.pair()


def prompt_of(ids, mask, images):
  return Prompt(ids=ids, mask=mask, images=images)


def pixel_values(images):
  """Scales uint8 [..., h, w, 3] as the HF processor does: [-1, 1], NCHW."""
  pixels = images.astype(np.float32) / 255 * 2 - 1
  return torch.tensor(pixels.transpose(0, 3, 1, 2))


def torch_greedy(model, ids, mask, images):
  """Draws with history images, which transformers cannot do itself."""
  found = []
  for row, seen, pictures in zip(ids, mask, images, strict=True):
    count = int((row == tiny_janus.IMAGE).sum()) // tiny_janus.PATCHES
    codes = hf_inference.sample_codes(
      model,
      torch.tensor(row[seen][None]).long(),
      pixel_values(pictures[:count]) if count else None,
      num=1,
      guidance=GUIDANCE,
      greedy=True,
    )
    found.append(codes[0].numpy())
  return np.stack(found)


def test_greedy_text_prompts_match_generate_token_for_token(pair):
  theirs, ours, params = pair
  ids, mask, images = tiny_janus.prompts(with_images=False)
  # `generate` keeps every begin-of-image, and a prompt without images has one.
  assert ((ids == tiny_janus.BOI).sum(1) == 1).all()
  expected = theirs.generate(
    input_ids=torch.tensor(ids).long(),
    attention_mask=torch.tensor(mask).long(),
    generation_mode="image",
    guidance_scale=GUIDANCE,
    do_sample=False,
  ).numpy()
  found = greedy_codes(ours, params, prompt_of(ids, mask, images[:, :0]))
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(found)) > 5  # else agreement would mean little


def test_greedy_prompts_with_history_images_match_the_torch_tool(pair):
  theirs, ours, params = pair
  ids, mask, images = tiny_janus.prompts(with_images=True)
  expected = torch_greedy(theirs, ids, mask, images)
  found = greedy_codes(ours, params, prompt_of(ids, mask, images))
  np.testing.assert_array_equal(found, expected)
  other = greedy_codes(ours, params, prompt_of(ids, mask, 255 - images))
  assert (found[:2] != other[:2]).any(-1).all()  # rows with images
  np.testing.assert_array_equal(found[2], other[2])  # and the one without


def test_image_features_match(pair):
  theirs, ours, params = pair
  images = tiny_janus.prompts(with_images=True)[2]
  with torch.no_grad():
    expected = theirs.model.get_image_features(
      pixel_values(images[0]), return_dict=True
    ).pooler_output.numpy()
  found = jax.jit(ours.image_features)(params, images)
  assert found.shape == (3, 2, ours.image_tokens, ours.language.width)
  np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_text_training_sees_images_as_transformers_does(pair):
  theirs, ours, params = pair
  ids, mask, images = (x[:1] for x in tiny_janus.prompts(with_images=True))
  with torch.no_grad():
    expected = theirs(
      input_ids=torch.tensor(ids[mask][None]).long(),
      pixel_values=pixel_values(images[0]),
    ).logits.numpy()
  embeds = ours.embed(params, prompt_of(ids, mask, images))
  hidden = ours.hidden_states(params, embeds, mask)
  found = np.asarray(ours.text_vocabulary.logits(params, hidden))[mask]
  np.testing.assert_allclose(found, expected[0], atol=1e-4, rtol=1e-5)


def test_image_head_matches(pair):
  theirs, ours, params = pair
  ids, mask, images = tiny_janus.prompts(with_images=False)
  codes = np.random.default_rng(1).integers(
    0, ours.codebook_size, (len(ids), 1, ours.image_tokens)
  )
  with torch.no_grad():
    embeds = torch.cat(
      [
        theirs.get_input_embeddings()(torch.tensor(ids).long()),
        theirs.prepare_embeddings_for_image_generation(
          torch.tensor(codes[:, 0])
        ),
      ],
      1,
    )
    seen = np.concatenate([mask, np.ones_like(codes[:, 0], bool)], 1)
    hidden = theirs.model.language_model(
      inputs_embeds=embeds, attention_mask=torch.tensor(seen)
    ).last_hidden_state
    expected = theirs.model.generation_head(hidden).numpy()
  found = jax.jit(code_logits, static_argnums=0)(
    ours, params, prompt_of(ids, mask, images[:, :0]), codes
  )
  length = ids.shape[1]
  np.testing.assert_allclose(
    found[:, 0], expected[:, length - 1 : -1], atol=1e-4
  )


def test_pixels_and_codes_match(pair):
  theirs, ours, params = pair
  # By transformers' rule: the codebook's vectors differ in length.
  tokenizer = dataclasses.replace(ours.tokenizer, l2_norm=False)
  ours = dataclasses.replace(ours, tokenizer=tokenizer)
  images = tiny_janus.prompts(with_images=True)[2]
  with torch.no_grad():
    tokens = theirs.model.vqmodel.encode(
      pixel_values(images.reshape(-1, *images.shape[2:]))
    ).image_tokens
    drawn = theirs.decode_image_tokens(tokens.reshape(6, -1)).numpy()
  codes = jax.jit(ours.encode_pixels)(params, images.astype("float32") / 255)
  assert codes.shape == (3, 2, ours.image_tokens)
  np.testing.assert_array_equal(codes.reshape(-1), tokens.reshape(-1))
  pixels = jax.jit(ours.decode_pixels)(params, codes)
  assert pixels.shape == images.shape
  np.testing.assert_allclose(
    pixels.reshape(drawn.shape), np.clip(drawn / 2 + 0.5, 0, 1), atol=1e-4
  )


# What `tokens[1:-1] = pad` of DeepSeek's generation_inference.py leaves, where
# the last token is begin-of-image.
UNCONDITIONAL = [
  # (a prompt, what is kept of it): by the number of history images.
  ([0, 9, 9, 4], [0, 2, 2, 4]),
  ([0, 9, 4, 3, 3, 5, 9, 4], [0, 2, 2, 2, 2, 2, 2, 4]),
  ([0, *[9, 4, 3, 5] * 5, 8, 4], [0, *[2] * 21, 4]),
]


@pytest.mark.parametrize("padding", [0, 3])
def test_unconditional_prompts_keep_bos_and_the_last_begin_of_image(
  pair, padding
):
  theirs, ours, _ = pair
  images = np.zeros((3, 5, 20, 20, 3), np.uint8)
  width = padding + max(len(row) for row, _ in UNCONDITIONAL)
  ids, expected = (
    np.asarray([[2] * (width - len(row)) + row for row in rows], np.int32)
    for rows in zip(*UNCONDITIONAL, strict=True)
  )
  other = ours.unconditional(prompt_of(ids, ids != 2, images))
  np.testing.assert_array_equal(other.ids, expected)
  np.testing.assert_array_equal(other.mask, ids != 2)
  assert other.images.shape[1] == 0
  for row, kept in UNCONDITIONAL:
    found = torch_sampling.unconditional_ids(theirs, torch.tensor([row]))
    assert found.tolist() == [kept]


def test_padding_changes_nothing(pair):
  _, ours, params = pair
  ids, mask, images = tiny_janus.prompts(with_images=True)
  codes = np.arange(3 * 2 * ours.image_tokens).reshape(3, 2, -1) % 50
  found = code_logits(ours, params, prompt_of(ids, mask, images), codes)
  wider = ((0, 0), (7, 0))
  padded = prompt_of(
    np.pad(ids, wider, constant_values=tiny_janus.PAD),
    np.pad(mask, wider),
    images,
  )
  again = code_logits(ours, params, padded, codes)
  # And the aligner and the head, of two layers each.
  terms = tiny_janus.LANGUAGE_TERMS + 4 * 40
  rounding.assert_close(found, again, terms=terms)


def test_bfloat16_gives_float32_logits_and_keeps_the_image_tokenizer(pair):
  _, ours, params = pair
  model = ours.with_compute(dtype="bfloat16", remat="dots")
  assert model.tokenizer == ours.tokenizer
  prompt = prompt_of(*tiny_janus.prompts(with_images=True))
  codes = np.zeros((3, 1, ours.image_tokens), np.int32)
  exact = code_logits(ours, params, prompt, codes)
  found = code_logits(model, params, prompt, codes)
  assert found.dtype == jnp.float32
  assert np.std(found - exact) < 0.05 * np.std(exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_key_draws_one_set_of_parameters(pair, dtype):
  _, ours, params = pair
  ours = ours.with_compute(dtype=dtype)
  init = jax.jit(ours.init)
  assert not tree.diff(params, init(jax.random.key(0)))
  jax.tree.map(
    np.testing.assert_array_equal,
    init(jax.random.key(1)),
    init(jax.random.key(1)),
  )


def test_images_must_be_generated_at_the_size_at_which_they_are_read(pair):
  _, ours, _ = pair
  vision = dataclasses.replace(ours.vision, image_size=24, patch_size=8)
  with pytest.raises(ValueError, match="read at 24 pixels and generated at 12"):
    dataclasses.replace(ours, vision=vision)


def test_aligners_of_one_layer_fit_the_sharding_rules(pair):
  _, ours, _ = pair
  ours = dataclasses.replace(ours, aligner_depth=1, image_aligner_depth=1)
  params = jax.eval_shape(ours.init, jax.random.key(0))
  specs = sharding.specs(janus.RULES, params)
  assert jax.tree.structure(specs) == jax.tree.structure(params)


@pytest.mark.parametrize(
  ("preset", "language", "total"),
  # As transformers counts them in models of these configs, see hf/janus_test.
  [
    (janus_presets.janus_pro_1b, 1_652_656_128, 2_076_636_811),
    (janus_presets.janus_pro_7b, 6_910_365_696, 7_407_773_323),
  ],
)
def test_presets_have_their_published_sizes(preset, language, total):
  model = preset()
  assert (model.image_tokens, model.image_size) == (576, 384)
  params = jax.eval_shape(model.init, jax.random.key(0))

  def count(part):
    return sum(leaf.size for leaf in jax.tree.leaves(part))

  assert count(params["language"]) == language
  assert count(params) == total
  # Strict: every parameter has one rule, every rule a parameter.
  specs = sharding.specs(janus.RULES, params)
  mesh = {"data": 8, "model": 4}
  for name, leaf in tree.flatten(params).items():
    spec = tree.flatten(specs)[name]
    for size, axis in zip(leaf.shape, spec, strict=False):
      assert size % mesh.get(axis, 1) == 0, (name, leaf.shape, spec)
