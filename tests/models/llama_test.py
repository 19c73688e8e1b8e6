"""The language model against transformers', and against itself unshared."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.llama import modeling_llama

from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.models import llama_layers, llama_prefix
from genrec_jax.nn import attention
from tests import rounding
from tests.hf import tiny_janus

P, T, G, LENGTH = 2, 9, 3, 5


@pytest.fixture(scope="module")
def pair():
  theirs, ours, params = tiny_janus.pair()
  return theirs.model.language_model, ours.language, params["language"]


def draw(key, *shape):
  return jax.random.normal(jax.random.key(key), shape)


def left_padded():
  """Returns embeddings [P, T, D] and a mask, the second row shorter."""
  mask = np.ones((P, T), bool)
  mask[1, :4] = False
  return draw(0, P, T, tiny_janus.TEXT["hidden_size"]), mask


def test_rotary_is_that_of_transformers(pair):
  theirs, ours, _ = pair
  positions = np.array([[0, 1, 5, 200]])
  x = draw(1, 1, ours.num_heads, 4, ours.head_width)
  expected, _ = modeling_llama.apply_rotary_pos_emb(
    torch.tensor(np.asarray(x)),
    torch.tensor(np.asarray(x)),
    *theirs.rotary_emb(torch.zeros(1), torch.tensor(positions)),
  )
  tables = llama_layers.rotary(positions, ours.head_width, ours.rope_base)
  found = llama_layers.rotate(x, *(table[:, None] for table in tables))
  # An angle of 200 radians, a rotation of two terms.
  rounding.assert_close(found, expected.numpy(), terms=3, scale=200)


def test_a_layer_matches(pair):
  theirs, ours, params = pair
  x, mask = left_padded()
  x, mask = x[:1], mask[:1]
  positions = torch.arange(T)[None]
  causal = torch.full((1, 1, T, T), -torch.inf).triu(1)
  with torch.no_grad():
    expected = theirs.layers[1](
      torch.tensor(np.asarray(x)),
      attention_mask=causal,
      position_embeddings=theirs.rotary_emb(torch.zeros(1), positions),
    )
  tables = llama_layers.rotary(
    jnp.arange(T)[None], ours.head_width, ours.rope_base
  )
  found, _ = llama_layers.Block(ours).apply(
    {"params": jax.tree.map(lambda leaf: leaf[1], params["layers"])},
    x[:, None],
    tuple(table[:, None, :, None] for table in tables),
    lambda q, k, v: (attention.attend(q, k, v, causal=True), None),
  )
  rounding.assert_close(
    found[:, 0], expected.numpy(), terms=tiny_janus.LAYER_TERMS
  )


def test_hidden_states_match_under_left_padding(pair):
  theirs, ours, params = pair
  x, mask = left_padded()
  positions = np.maximum(np.cumsum(mask, -1) - 1, 0)
  with torch.no_grad():
    expected = theirs(
      inputs_embeds=torch.tensor(np.asarray(x)),
      attention_mask=torch.tensor(mask),
      position_ids=torch.tensor(positions),
    ).last_hidden_state.numpy()
  found = jax.jit(ours.hidden_states)(params, x, mask)
  terms = tiny_janus.LANGUAGE_TERMS
  rounding.assert_close(found[mask], expected[mask], terms=terms)
  prefix = jax.jit(ours.prefill)(params, x, mask)
  rounding.assert_close(prefix.hidden, expected[:, -1], terms=terms)


@pytest.mark.parametrize("tied", [True, False])
def test_text_logits_match(tied):
  theirs = tiny_janus.torch_model(tied=tied)
  ours, params = tiny_janus.ours_of(theirs)
  assert ours.language.tied == tied
  assert ("lm_head" in params["language"]) != tied
  ids = np.array([[5, 60, 70, 80]])
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).logits.numpy()
  hidden = ours.hidden_states(
    params, ours.language.embed(params["language"], ids), ids > 0
  )
  found = ours.text_vocabulary.logits(params, hidden)
  assert found.dtype == jnp.float32
  # Logits of a random embedding are sums of 40 products of order one.
  rounding.assert_close(found, expected, terms=tiny_janus.LANGUAGE_TERMS + 40)


def test_answers_equal_prompt_and_answer_in_one_row(pair):
  _, ours, params = pair
  x, mask = left_padded()
  answers = draw(2, P, G, LENGTH, ours.width)
  shared = jax.jit(ours.forward_shared_prefix)(params, x, mask, answers)
  rows = np.concatenate(
    [np.repeat(x, G, 0), np.reshape(answers, (P * G, LENGTH, -1))], 1
  )
  seen = np.concatenate(
    [np.repeat(mask, G, 0), np.ones((P * G, LENGTH), bool)], 1
  )
  alone = jax.jit(ours.hidden_states)(params, rows, seen)
  rounding.assert_close(
    np.reshape(shared, (P * G, 1 + LENGTH, -1)),
    alone[:, T - 1 :],
    terms=tiny_janus.LANGUAGE_TERMS,
  )


def test_cached_equals_uncached(pair):
  _, ours, params = pair
  x, mask = left_padded()
  answers = draw(2, P, G, LENGTH, ours.width)
  prefix = jax.jit(ours.prefill)(params, x, mask)
  expected = jax.jit(ours.forward_shared_prefix)(params, x, mask, answers)[
    :, :, 1:
  ]
  _, found = jax.jit(lambda: decode(ours, params, prefix, answers))()
  rounding.assert_close(
    found.transpose(1, 2, 0, 3), expected, terms=tiny_janus.LANGUAGE_TERMS
  )


def test_a_long_prefix_is_filled_up_and_nothing_changes(pair, monkeypatch):
  _, ours, params = pair
  x, mask = left_padded()
  prefix = ours.prefill(params, x, mask)
  answers = draw(2, P, G, LENGTH, ours.width)
  _, expected = decode(ours, params, prefix, answers)
  tile = mask.shape[-1] - 1
  monkeypatch.setattr(llama_prefix, "_TILE", tile)
  monkeypatch.setattr(llama_prefix, "_LONG", 1)
  assert llama_prefix.laid_out(prefix).mask.shape[-1] == 2 * tile
  _, found = decode(ours, params, prefix, answers)
  rounding.assert_close(found, expected, terms=tiny_janus.LANGUAGE_TERMS)


def decode(model, params, prefix, answers):
  decode_params = model.decode_params(params)
  prefix = llama_prefix.laid_out(prefix)

  def body(cache, step):
    index, embeds = step
    hidden, cache = model.decode_step(
      decode_params, prefix, cache, embeds, index
    )
    return cache, hidden

  length = answers.shape[2]
  cache = model.init_cache(prefix, answers.shape[1], length)
  steps = (jnp.arange(length), answers.transpose(2, 0, 1, 3))
  return jax.lax.scan(body, cache, steps)


def test_the_decode_loop_copies_neither_prefix_nor_parameters(pair):
  _, ours, params = pair
  x, mask = left_padded()
  prefix = ours.prefill(params, x, mask)
  answers = draw(2, P, G, LENGTH, ours.width)

  jaxpr = jax.make_jaxpr(lambda: decode(ours, params, prefix, answers))()
  (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
  shapes = _shapes(loop.params["jaxpr"].jaxpr)
  *rows, length, width = prefix.keys.shape[1:]
  assert (*rows, length, width) not in shapes
  assert (*rows, width, length) not in shapes
  for name, leaf in tree.flatten(params["layers"]).items():
    assert leaf.ndim < 3 or leaf.shape[1:] not in shapes, name
  # Else this would test nothing.
  assert (*rows, G, LENGTH, width) in shapes


def _shapes(jaxpr):
  """Returns the shapes of all that a jaxpr computes, at any depth."""
  shapes = set()
  for equation in jaxpr.eqns:
    shapes |= {variable.aval.shape for variable in equation.outvars}
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      shapes |= _shapes(inner)
  return shapes


def test_bfloat16_caches_are_bfloat16_and_scores_agree(pair):
  _, ours, params = pair
  ours = dataclasses.replace(ours, dtype="bfloat16", remat="full")
  x, mask = left_padded()
  answers = draw(2, P, G, LENGTH, ours.width)
  prefix = jax.jit(ours.prefill)(params, x, mask)
  assert prefix.keys.dtype == jnp.bfloat16
  cache, found = jax.jit(lambda: decode(ours, params, prefix, answers))()
  assert cache.keys[0].dtype == jnp.bfloat16
  expected = ours.forward_shared_prefix(params, x, mask, answers)[:, :, 1:]
  assert expected.dtype == jnp.bfloat16
  # Eight bits of mantissa through three layers.
  np.testing.assert_allclose(
    found.transpose(1, 2, 0, 3).astype(jnp.float32),
    expected.astype(jnp.float32),
    atol=0.1,
  )


def test_init_matches_the_checkpoint_s_tree(pair):
  _, ours, params = pair
  assert not tree.diff(jax.eval_shape(ours.init, jax.random.key(0)), params)


def test_on_a_mesh_each_kernel_of_a_layer_is_gathered(pair, monkeypatch):
  _, ours, params = pair
  # As users train, so that half of float32's bytes travel.
  ours = dataclasses.replace(ours, dtype="bfloat16")
  mesh = mesh_lib.make_mesh(data=2, model=1, devices=jax.devices()[:2])
  gathered, seen = sharding.gathered, []

  def gather(rules, layer, dtype):
    whole = gathered(rules, layer, dtype)
    old, new = tree.flatten(layer), tree.flatten(whole)
    changed = {path for path in old if old[path] is not new[path]}
    assert {new[path].dtype.name for path in changed} <= {"bfloat16"}
    seen.append(changed)
    return whole

  monkeypatch.setattr(sharding, "gathered", gather)
  x, mask = left_padded()
  run = jax.jit(sharding.trace_with_mesh(mesh, ours.hidden_states))
  found, expected = (
    np.asarray(one(params, x, mask), np.float32)
    for one in (run, ours.hidden_states)
  )
  # Of order 1 after the norm, in steps of 2^-8.
  np.testing.assert_allclose(found, expected, atol=2**-5)
  on_mesh, alone = seen
  layer = tree.flatten(params["layers"])
  assert on_mesh == {path for path in layer if path.endswith("/kernel")}
  assert len(on_mesh) == 7
  assert not alone


@pytest.mark.parametrize(
  ("platform", "expected"), [("tpu", True), ("cpu", True), ("gpu", False)]
)
def test_long_prefixes_of_several_prompts_are_shared(
  monkeypatch, platform, expected
):
  monkeypatch.setattr(sharding, "platform", lambda: platform)
  assert llama_prefix.worth_sharing(2, 1024) == expected
  assert not llama_prefix.worth_sharing(1, 1024)  # nothing in common
  assert not llama_prefix.worth_sharing(2, 1023)  # too short
