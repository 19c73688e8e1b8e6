"""Views: who looks, at which titles, and what a step has no trace of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.testing import random_batch, random_params, tiny_clip
from genrec_jax.train import looking, rl
from tests.train.options import rl_options

CLIP, OTHER = tiny_clip(), tiny_clip(projection_dim=6)
PARAMS = {
  "clip": random_params(CLIP, 0, 0.3),
  "other": random_params(OTHER, 1, 0.3),
}
SECTIONS = {
  "text": {"weight": 0.0},
  "history": {"weight": 0.0, "pool": "mean", "recency_decay": 0.8},
  "future": {"weight": 0.0, "pool": "mean"},
  "copy": {"weight": 0.0, "threshold": 0.9},
  "diversity": {"weight": 0.0},
  "quality": {"weight": 0.0, "checkpoint": ""},
}


def batch(*names):
  """Returns windows with a title of their own for each encoder named."""
  found = random_batch(2)
  titles = {
    name: (np.roll(found.title_ids, 1, 0), found.title_mask) for name in names
  }
  return dataclasses.replace(found, titles=titles)


def pixels():
  rng = np.random.default_rng(5)
  return jnp.asarray(rng.uniform(size=(2, 3, 16, 16, 3)), jnp.float32)


def look(name, encoder, given):
  return rewards.look(
    pixels(), given, {name: PARAMS["other"]}, {name: encoder}, {name}
  )[name]


def test_each_encoder_reads_its_own_title():
  given = batch("other")
  ids, mask = given.titles["other"]
  images, targets = look("other", OTHER, given)
  np.testing.assert_allclose(
    images, OTHER.embed_images(PARAMS["other"], pixels()), rtol=1e-6
  )
  np.testing.assert_allclose(
    targets.text, OTHER.embed_texts(PARAMS["other"], ids, mask), rtol=1e-6
  )
  assert targets.history.shape == (2, 2, 6)


def test_an_encoder_without_a_title_reads_no_text():
  assert look("other", OTHER, batch()).targets.text is None


def test_quality_is_the_logit_as_clip_computes_it():
  given = batch("quality")
  params = PARAMS["other"] | {"logit_scale": jnp.float32(np.log(100))}
  view = rewards.look(
    pixels(), given, {"quality": params}, {"quality": OTHER}, {"quality"}
  )["quality"]
  got = rewards.REWARDS["quality"](*view)
  text = OTHER.embed_texts(params, *given.titles["quality"])
  images = OTHER.embed_images(params, pixels())
  expected = 100 * jnp.einsum("pge,pe->pg", images, text)
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  assert np.ptp(got) > 1  # of the order of a logit, not of a cosine


@pytest.mark.parametrize(
  ("weighted", "seeing"),
  [
    ({"text"}, {"clip", "other"}),
    ({"copy"}, {"clip"}),
    ({"quality"}, {"quality"}),
    ({"quality", "diversity"}, {"clip", "other", "quality"}),
  ],
)
def test_a_step_has_no_trace_of_an_encoder_without_a_weight(weighted, seeing):
  """What is not needed is not even there to be read."""
  sections = {
    k: one | {"weight": float(k in weighted)} for k, one in SECTIONS.items()
  }
  options = rl_options(
    rewards=rewards.from_options(sections, {"other": True}),
    encoders={"other": OTHER, "quality": OTHER},
  )
  assert options.looking == seeing
  whole = {
    "clip": PARAMS["clip"],
    "other": PARAMS["other"],
    "quality": PARAMS["other"],
  }
  params = {name: whole[name] for name in seeing}

  def reward(params, pixels):
    frozen = {"encoders": dict(params)}
    if "clip" in params:
      frozen["clip"] = frozen["encoders"].pop("clip")
    views = looking.look(
      pixels, frozen, batch("other", "quality"), CLIP, options
    )
    assert set(views) == seeing
    raw = rewards.score_views(views, options.rewards)
    return rl.weigh_rewards(raw, options.weights, options)

  values, metrics = jax.jit(reward)(params, pixels())
  assert np.isfinite(values).all()
  scored = {name.split("_")[0] for name in options.rewards}
  assert scored == weighted
  named = {k.split("/")[1] for k in metrics if k.endswith("_mean")}
  assert {k.split("_")[0] for k in named} == weighted


def test_what_held_out_users_earn_is_the_reward_of_training_by_clip():
  views = look("clip", OTHER, batch())
  sections = {
    name: one | {"weight": 0.5 + place}
    for place, (name, one) in enumerate(SECTIONS.items())
  }
  options = rl_options(
    rewards=rewards.from_options(sections, {"other": True}),
    encoders={"other": OTHER, "quality": OTHER},
  )
  own = {n: r for n, r in options.rewards.items() if r.encoder == "clip"}
  assert 0 < len(own) < len(options.rewards)
  raw = rewards.score_views({"clip": views}, own)
  expected = sum(own[n].weight * raw[n].mean(1) for n in own)
  found = rl.earned(*views, options)
  assert found.shape == (len(pixels()),)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
