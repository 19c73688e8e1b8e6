"""Emu3 against transformers': what it reads, what it draws, code for code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from genrec_jax.core import sharding, tree
from genrec_jax.core.types import Prompt
from genrec_jax.models import emu3, emu3_preset
from tests.greedy import greedy_codes
from tests.hf import tiny_emu3

GUIDANCE = 3.0
TITLES = ["red cross", "circle on sand"]
INSTRUCTION = "draw the next item"


@pytest.fixture(scope="module", params=[False, True], ids=["row", "scattered"])
def pair(request):
  """Codes' tokens stand in a row in the vocabulary, or anywhere."""
  return tiny_emu3.pair(request.param)


def prompt_of(ids, images, pad=0, pads=0):
  ids = np.asarray([[pad] * pads + list(ids)], np.int32)
  mask = np.arange(ids.shape[1])[None] >= pads
  return Prompt(ids=ids, mask=mask, images=images[None])


def history(processor):
  return processor.prompt_ids(TITLES, INSTRUCTION), tiny_emu3.random_images()


def torch_logits(theirs, ids, images):
  """Returns transformers' logits [T, V] of a prompt with images."""
  seen = {}
  if len(images):
    seen["pixel_values"] = tiny_emu3.pixel_values(images)
    seen["image_sizes"] = torch.tensor([images.shape[1:3]] * len(images))
  with torch.no_grad():
    return theirs(input_ids=torch.tensor([ids]), **seen).logits[0].numpy()


def our_logits(model, params, prompt):
  """Returns the language model's logits [T, V], nothing masked."""

  @jax.jit
  def run(params, prompt):
    embeds = model.embed(params, prompt)
    hidden = model.hidden_states(params, embeds, prompt.mask)
    return model.language.logits(params["language"], hidden)[0]

  return np.asarray(run(params, prompt))


def greedy(model, params, prompt):
  """Returns the codes [I] of the one prompt."""
  return greedy_codes(model, params, prompt, GUIDANCE)[0]


def tokens_of(model, codes):
  """Returns the tokens of an image, ends of rows included."""
  side = model.image_size // 8
  ids = np.asarray(model.code_ids)[codes].reshape(side, side)
  return np.pad(ids, [(0, 0), (0, 1)], constant_values=model.row_end_id).ravel()


def allowed(model, place):
  """Returns which tokens may stand at a place of an image."""
  side = model.image_size // 8
  ends = place % (side + 1) == side
  return [model.row_end_id] if ends else list(model.code_ids)


def test_logits_match_and_see_the_history(pair):
  theirs, ours, params, processor = pair
  ids, images = history(processor)
  assert ids.count(processor.image_id) == 2 * ours.prompt_tokens
  found = our_logits(ours, params, prompt_of(ids, images))
  expected = torch_logits(theirs, ids, images)
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
  # transformers dropped pixels silently for two years: it must see them, too.
  other = images.copy()
  other[0] = 255 - other[0]
  changed = torch_logits(theirs, ids, other)
  assert np.abs(changed - expected)[-1].max() > 1e-2
  np.testing.assert_allclose(
    our_logits(ours, params, prompt_of(ids, other)),
    changed,
    atol=1e-4,
    rtol=1e-4,
  )


def test_greedy_text_prompts_match_generate_token_for_token(pair):
  theirs, ours, params, processor = pair
  sampled = []
  for text in ("a red cross", "large circle on sand"):
    ids = processor.text_prompt_ids(text)
    nothing = [ours.bos_id, *ours.image_begin]
    side = ours.image_size // 8
    made = theirs.generate(
      input_ids=torch.tensor([ids]),
      attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
      guidance_scale=GUIDANCE,
      negative_prompt_ids=torch.tensor([nothing]),
      negative_prompt_attention_mask=torch.ones(
        (1, len(nothing)), dtype=torch.long
      ),
      prefix_allowed_tokens_fn=lambda _, row, ids=ids: allowed(
        ours, len(row) - len(ids)
      ),
      do_sample=False,
      max_new_tokens=side * (side + 1),
    )[0, len(ids) :]
    found = greedy(ours, params, prompt_of(ids, np.zeros((0, 8, 8, 3), "u1")))
    np.testing.assert_array_equal(tokens_of(ours, found), made)
    sampled.append(found)
  assert len(np.unique(sampled)) > 5  # else agreement would mean little
  assert (sampled[0] != sampled[1]).any()


def torch_greedy(theirs, model, ids, images):
  """Draws with history images, which `generate` of transformers cannot.

  Without a cache: each token runs everything before it.
  """
  nothing = [model.bos_id, *model.image_begin]
  side, made, codes = model.image_size // 8, [], []
  while len(made) < side * (side + 1) - 1:
    if len(made) % (side + 1) == side:
      made.append(model.row_end_id)
      continue
    c = torch_logits(theirs, [*ids, *made], images)[-1]
    u = torch_logits(theirs, [*nothing, *made], images[:0])[-1]
    guided = (u + GUIDANCE * (c - u))[np.asarray(model.code_ids)]
    codes.append(int(guided.argmax()))
    made.append(model.code_ids[codes[-1]])
  return codes


def test_greedy_prompts_with_history_images_match_a_torch_loop(pair):
  theirs, ours, params, processor = pair
  ids, images = history(processor)
  expected = torch_greedy(theirs, ours, ids, images)
  found = greedy(ours, params, prompt_of(ids, images))
  np.testing.assert_array_equal(found, expected)
  padded = prompt_of(ids, images, ours.pad_id, pads=3)
  np.testing.assert_array_equal(greedy(ours, params, padded), expected)
  other = greedy(ours, params, prompt_of(ids, 255 - images))
  assert (found != other).any()


def test_pixels_and_codes_match(pair):
  theirs, ours, params, _ = pair
  images = tiny_emu3.random_images(3, ours.image_size)
  with torch.no_grad():
    sizes = torch.tensor([images.shape[1:3]] * 3)
    codes = theirs.model.vqmodel.encode(
      tiny_emu3.pixel_values(images), sizes
    ).image_tokens
    decoded = theirs.model.vqmodel.decode(torch.stack(codes)).numpy()
  found = jax.jit(ours.encode_pixels)(params, images.astype("float32") / 255)
  assert found.shape == (3, ours.image_tokens)
  np.testing.assert_array_equal(found, torch.stack(codes).reshape(3, -1))
  pixels = jax.jit(ours.decode_pixels)(params, found)
  expected = decoded.transpose(0, 2, 3, 1) * tiny_emu3.STD + tiny_emu3.MEAN
  np.testing.assert_allclose(pixels, np.clip(expected, 0, 1), atol=1e-4)
  vectors = ours.code_vectors(params)[found]
  again = jax.jit(ours.decode_vectors)(params, vectors)
  np.testing.assert_allclose(again, pixels, atol=1e-6)


def test_what_is_read_is_what_transformers_inserts(pair):
  theirs, ours, params, _ = pair
  images = tiny_emu3.random_images()
  with torch.no_grad():
    expected = theirs.model.get_image_tokens(
      tiny_emu3.pixel_values(images), torch.tensor([[16, 16]] * 2)
    )
  found = jax.jit(ours.read_images)(params, images[None])
  assert found.shape == (1, 2, ours.prompt_tokens)
  np.testing.assert_array_equal(found.ravel(), expected)


def test_what_it_generated_is_read_at_its_own_size(pair):
  _, ours, params, _ = pair
  images = tiny_emu3.random_images(2, ours.image_size)
  found = jax.jit(ours.read_images)(params, images[None])
  small = jax.image.resize(images / np.float32(255), (2, 16, 16, 3), "cubic")
  codes = jax.jit(ours.encode_pixels)(params, np.clip(small, 0, 1))
  rows = np.asarray(found)[0].reshape(2, 2, 3)
  expected = np.asarray(ours.code_ids)[np.asarray(codes)].reshape(2, 2, 2)
  np.testing.assert_array_equal(rows[..., :2], expected)


def test_the_unconditional_prompt_is_bos_and_the_begin_of_an_image(pair):
  _, ours, _, processor = pair
  ids, images = history(processor)
  other = ours.unconditional(prompt_of(ids, images, ours.pad_id, 2))
  kept = [ours.bos_id, *ours.image_begin]
  assert other.ids.shape == (1, len(ids) + 2)
  assert other.ids[0][other.mask[0]].tolist() == kept
  assert other.mask[0, -len(kept) :].all()  # padded on the left
  assert other.images.shape[1] == 0
  # A prompt that ends before it leaves BOS.
  short = prompt_of(ids[: -len(ours.image_begin)], images)
  other = ours.unconditional(short)
  assert other.ids[0][other.mask[0]].tolist() == [ours.bos_id]


def test_texts_hold_no_codes(pair):
  _, ours, params, processor = pair
  hidden = jax.random.normal(jax.random.key(0), (2, 5, ours.language.width))
  logits = np.asarray(ours.text_vocabulary.logits(params, hidden))
  whole = np.asarray(ours.language.logits(params["language"], hidden))
  never = {*ours.code_ids, ours.row_end_id, ours.image_begin[-1], ours.bos_id}
  never |= {processor.image_id, processor.eoi_id, ours.pad_id}
  assert (logits[..., sorted(never)] < -1e8).all()
  # The begin of an image ends a title.
  said = [
    ours.image_begin[0],
    *processor.end_ids,
    *processor.tokenizer.encode("red cross"),
  ]
  np.testing.assert_array_equal(logits[..., said], whole[..., said])


def test_decoding_reads_the_rows_of_codes_alone(pair):
  _, ours, params, _ = pair
  laid_out = ours.image_vocabulary.decode_params(params)
  flat = tree.flatten({"codes": laid_out["codes"]})
  codes, width = ours.codebook_size, ours.language.width
  assert {k: v.shape for k, v in flat.items()} == {
    "codes/embedding": (codes, width),
    "codes/kernel": (width, codes),
    "codes/end": (width,),
  }
  assert laid_out["language"].keys() == {"layers", "norm"}
  embed = ours.image_vocabulary.embed
  numbers = np.arange(codes)
  np.testing.assert_array_equal(
    embed(laid_out, numbers), embed(params, numbers)
  )


def test_a_tied_head_is_the_table():
  theirs = tiny_emu3.torch_model(tied=True)
  ours, params, processor = tiny_emu3.ours_of(theirs)
  assert "lm_head" not in params["language"]
  ids, images = history(processor)
  found = our_logits(ours, params, prompt_of(ids, images))
  expected = torch_logits(theirs, ids, images)
  np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
  codes = ours.image_vocabulary.logits(
    params, params["language"]["norm"]["scale"][None]
  )
  assert codes.shape == (1, ours.codebook_size)


def test_bfloat16_gives_float32_logits_and_keeps_the_image_tokenizer(pair):
  _, ours, params, processor = pair
  model = ours.with_compute(dtype="bfloat16", remat="dots")
  assert model.tokenizer == ours.tokenizer
  assert model.language.dtype == "bfloat16"
  cast = model.cast_params(params)
  assert cast.keys() == {"language"}
  embeds = model.embed(params, prompt_of(*history(processor)))
  assert embeds.dtype == jnp.bfloat16
  assert model.image_vocabulary.logits(params, embeds).dtype == jnp.float32


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"image_size": 20}, "image_size is 20: expected a multiple of 8"),
    ({"read_size": 0}, "read_size is 0: expected a multiple of 8"),
    ({"code_ids": range(36)}, "36 tokens of codes: expected one for each of"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
  ours = tiny_emu3.pair()[1]
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(ours, **changes)


def test_the_preset_has_its_published_size():
  model = emu3_preset.emu3()
  assert (model.image_tokens, model.prompt_tokens) == (1024, 272)
  params = jax.eval_shape(model.init, jax.random.key(0))

  def count(part):
    return sum(leaf.size for leaf in jax.tree.leaves(part))

  # Compared with transformers' shapes in hf/emu3_test.
  assert count(params["language"]) == 8_492_011_520
  specs = tree.flatten(sharding.specs(emu3.RULES, params))
  mesh = {"data": 8, "model": 4}
  for name, leaf in tree.flatten(params).items():
    for size, axes in zip(leaf.shape, specs[name], strict=False):
      for axis in axes if isinstance(axes, tuple) else (axes,):
        size, rest = divmod(size, mesh.get(axis, 1))
        assert not rest, (name, leaf.shape, specs[name])
