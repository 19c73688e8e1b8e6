"""The RL step in bfloat16, guided by 5, on a trained model: as users run it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from genrec_jax import rewards, sampling
from genrec_jax.core import tree
from genrec_jax.core.types import TrainState
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import stream, synthetic
from genrec_jax.data.windows import WindowSpec
from genrec_jax.hf import load
from genrec_jax.nn import token_attention
from genrec_jax.objectives import Objective
from genrec_jax.sampling import Sampling, Titles, images
from genrec_jax.testing import tiny_clip
from genrec_jax.train import rl
from genrec_jax.train.rl_options import RLOptions
from tests.train.gradients import KEEP, gradient

CONFIG = common.base("rl", "janus_pro_1b")  # dtype and guidance of real models
SAMPLE = Sampling(**CONFIG.sample.to_dict() | {"num_samples": 4})
PROMPTS = 8


@pytest.fixture(scope="module")
def loaded():
  return load.load_generator("tiny_sft", dtype=CONFIG.model.dtype, remat="full")


@pytest.fixture(scope="module")
def titles(request, loaded):
  """Returns how titles of a kind of answer are written, as a config says it."""
  asked = {"answer": request.param, "title_tokens": 8}
  return Titles.from_options(asked, loaded.model, loaded.processor.end_ids)


@pytest.fixture(scope="module")
def batch(loaded, titles, tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "world"
  dataset = dataset_lib.load(
    synthetic.build(path, num_users=PROMPTS, held_out=1, num_events=12)
  )
  tokenizer = load.open_clip("tiny_clip", dtype="float32").tokenizer
  batches = stream.train_batches(
    dataset,
    loaded.processor,
    tokenizer,
    WindowSpec(
      CONFIG.data.history_length,
      1,
      instruction=CONFIG.data.instruction,
      title_tokens=titles.max_tokens if titles else 0,
    ),
    batch_size=PROMPTS,
    seed=0,
  )
  found = next(iter(batches))
  # Any CLIP rewards. That of the tests compiles fast, but reads few words.
  return found.replace(
    title_ids=np.ones_like(found.title_ids[:, :1]),
    title_mask=found.title_mask[:, :1],
  )


@pytest.fixture(scope="module")
def rollout(loaded, batch, titles):
  """Returns items sampled in bfloat16, which both types are to learn from."""
  return jax.jit(
    lambda params, prompt: sampling.sample_items(
      loaded.model, params, prompt, jax.random.key(0), SAMPLE, titles
    )
  )(loaded.params, batch.prompt)


@pytest.fixture(scope="module")
def take(loaded, batch, rollout, titles):
  """Returns (dtype, items, options) -> the step's metrics and gradient.

  Of the rollout, or of other items; None: of those that the step samples.
  """
  clip = tiny_clip()
  clip_params = clip.init(jax.random.key(1))
  trainable, rest = tree.select(loaded.params, ("^language/", "^image_head/"))
  # Nothing moves: what a later epoch changes is rounding.
  optimizer = optax.chain(KEEP, optax.sgd(0.0))

  def take(dtype, items=rollout, **options):
    objective = {
      "ratio": "token",
      "clip_low": 0.2,
      "clip_high": 0.28,
      "kl": "k3",
      "kl_weight": 0.0,
      "aggregation": "token",
    }
    objective |= options.pop("objective", {})
    step = functools.partial(
      rl.train_step,
      model=loaded.model.with_compute(dtype=dtype, remat="full"),
      clip=clip,
      optimizer=optimizer,
      to_rollout_layout=lambda params: params,
      options=RLOptions(
        seed=0,
        sample=SAMPLE,
        titles=titles,
        rewards=rewards.from_options(
          {
            "history": {"weight": 0.5, "pool": "mean", "recency_decay": 0.8},
            "future": {"weight": 1.0, "pool": "mean"},
          }
        ),
        objective=Objective(**objective),
        **{
          "microbatches": 1,
          "normalise": "group",
          "advantage": "grpo",
          "scoring": "guided",
          "stop_unconditional_gradient": False,
          "inner_epochs": 1,
          "sampler_weight_cap": 0.0,
          "kl_of": "scored",
        }
        | options,
      ),
    )
    state = TrainState(jnp.int32(0), trainable, optimizer.init(trainable))
    with pytest.MonkeyPatch.context() as patch:
      if items is not None:
        patch.setattr(sampling, "sample_items", lambda *_, **__: items)
      state, metrics = jax.jit(step)(
        state, {"generator_rest": rest, "clip": clip_params}, batch
      )
    slopes = np.concatenate([x.ravel() for x in gradient(state).values()])
    return jax.device_get(metrics), slopes

  return take


@pytest.fixture(scope="module")
def exact(take):
  return take("float32")[1]


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


# GSPO's published clip, which rounding alone would overrun.
GSPO = {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}


# Two updates: what a loop of epochs compiles must round alike in each of them.
@pytest.mark.optimised
@pytest.mark.parametrize(
  ("titles", "objective", "epochs"),
  [
    ("image", {"ratio": "token"}, 1),
    ("image", GSPO, 2),
    ("title_image", GSPO, 2),
  ],
  indirect=["titles"],
)
def test_the_gradient_is_that_of_float32(
  take, exact, titles, objective, epochs
):
  """At a ratio of 1 both ratios have one gradient, GSPO-token's."""
  metrics, slopes = take("bfloat16", objective=objective, inner_epochs=epochs)
  assert cosine(slopes, exact) > 0.95
  # Eight bits change its length by no more than its direction.
  assert 0.9 < np.linalg.norm(slopes) / np.linalg.norm(exact) < 1.1
  for part in ("", "title_") if titles else ("",):
    assert metrics[f"{part}ratio_max_deviation"] == 0
    assert metrics[f"{part}clip_fraction"] == 0
    # What would not do as the old policy, and is reported instead.
    assert metrics[f"{part}sampler_mismatch_outside"] > 0
  assert metrics["sampler_mismatch_max"] > 0.1


@pytest.mark.parametrize("titles", ["image"], indirect=True)
def test_a_step_samples_from_what_its_rollout_type_says(take):
  """By how far the sampler is from what is trained: rounding, or eight bits."""
  off = {
    kind: take("float32", None, rollout_type=kind, sampler_weight_cap=2.0)[0][
      "sampler_mismatch_mean"
    ]
    for kind in ("compute", "int8_weights", "int8")
  }
  assert off["compute"] < 1e-5
  assert 1e-4 < off["int8_weights"] < 0.1
  assert 1e-4 < off["int8"] < 0.1
  assert off["int8"] != off["int8_weights"]


@pytest.mark.parametrize("titles", ["image"], indirect=True)
def test_codes_of_a_sampler_in_eight_bits_give_the_gradient_of_float32(
  loaded, batch, take, titles
):
  """Weighed by their probability under the policy that is trained."""

  def sample(params, prompt):
    narrow = sampling.rollout_params(
      loaded.model, params, lambda tree: tree, narrow=True
    )
    options = dataclasses.replace(SAMPLE, int8_cache=True)
    key = jax.random.key(0)
    return sampling.sample_items(
      loaded.model, narrow, prompt, key, options, titles
    )

  items = jax.jit(sample)(loaded.params, batch.prompt)
  eight = {"rollout_type": "int8", "sampler_weight_cap": 2.0}
  metrics, slopes = take("bfloat16", items, **eight)
  exact = take("float32", items, **eight)[1]
  assert metrics["ratio_max_deviation"] == 0
  assert cosine(slopes, exact) > 0.95


@pytest.mark.parametrize("titles", ["image", "title_image"], indirect=True)
def test_a_cache_that_is_read_in_parts_changes_no_code(
  loaded, batch, rollout, titles, monkeypatch
):
  codes = loaded.model.image_tokens
  monkeypatch.setattr(token_attention, "reads_parts", lambda: True)
  monkeypatch.setattr(images, "_STAGE", codes // 4)
  assert len(images._stages(codes)) == 4
  # A new function: a jitted one that was traced knows of no parts.
  parts = jax.jit(
    lambda params, prompt: sampling.sample_items(
      loaded.model, params, prompt, jax.random.key(0), SAMPLE, titles
    )
  )(loaded.params, batch.prompt)
  np.testing.assert_array_equal(parts.codes, rollout.codes)
  np.testing.assert_allclose(parts.logprobs, rollout.logprobs, atol=1e-2)
