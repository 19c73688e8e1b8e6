"""What is laid out for a step: who is trained, in which type, and where."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rl as rl_config
from configs import sft as sft_config
from genrec_jax import rewards, sampling
from genrec_jax.analysis import abstract_step
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.errors import UserError
from genrec_jax.core.types import TrainState
from genrec_jax.hf import load
from genrec_jax.models import janus
from genrec_jax.nn import lora
from genrec_jax.runtime import checkpoint
from genrec_jax.sampling import Sampling
from genrec_jax.targets import embed_targets
from genrec_jax.testing import amplified, random_batch, tiny_clip, tiny_janus
from genrec_jax.train import plan as plan_lib
from genrec_jax.train import rl, sft, trainable
from tests import rounding

CLIP = tiny_clip()
MODEL = tiny_janus().with_compute(dtype="bfloat16", remat="full")
HEAD = "language/lm_head/kernel"


def make_plan(module, model=MODEL, devices=1, **changes):
  """Returns the plan of a real model's config for a tiny one."""
  config = module.get_config("janus_pro_1b")
  config.data.batch_size = config.eval.batch_size = 8
  config.sample.num_samples = 2
  config.update_from_flattened_dict(changes)
  plan = plan_lib.make_plan(
    config,
    model=model,
    rules=janus.RULES,
    clip=CLIP,
    devices=jax.devices()[:devices],
  )
  return config, plan


@pytest.fixture(scope="module")
def params():
  return amplified(MODEL.init(jax.random.key(0)), 1.25)


@pytest.fixture(scope="module")
def clip_params():
  return CLIP.init(jax.random.key(1))


@pytest.mark.parametrize("task", [sft, rl])
def test_all_that_is_trained_has_a_gradient(params, clip_params, task):
  module = {sft: sft_config, rl: rl_config}[task]
  config, plan = make_plan(module)
  flat = tree.flatten(params)
  assert HEAD in flat
  trainable, rest = (
    tree.unflatten({path: flat[path] for path in tree.flatten(part)})
    for part in (plan.state.params, plan.frozen["generator_rest"])
  )
  assert HEAD in tree.flatten(rest)
  frozen = {"generator_rest": rest, "clip": clip_params, "reference": trainable}
  state = TrainState(jnp.int32(0), trainable, plan.optimizer.init(trainable))
  step = jax.jit(task.make_step(config, plan))
  state, metrics = step(state, frozen, random_batch(8))
  assert np.isfinite(metrics["loss"])
  first = tree.flatten(state.opt_state[1][0].mu)  # of Adam, behind the clip
  assert first.keys() == tree.flatten(trainable).keys()
  assert [path for path, x in first.items() if not np.any(x)] == []


def test_what_can_have_no_gradient_is_refused_by_name():
  for pattern in ("lm_head", "^tokenizer/"):
    with pytest.raises(
      UserError, match=f"no gradient.*\n  {re.escape(pattern)}"
    ):
      make_plan(rl_config, **{"model.trainable": ("^language/", pattern)})


def test_a_workdir_that_trained_the_head_still_opens(tmp_path):
  """As those made before it was left out."""
  base = load.open_generator("tiny_base", dtype="float32")
  head = np.random.default_rng(0).normal(
    size=base.shapes["language"]["lm_head"]["kernel"].shape
  )
  trained = {"language": {"lm_head": {"kernel": jnp.float32(head)}}}
  (tmp_path / "config.json").write_text(
    '{"model": {"checkpoint": "tiny_base"}}'
  )

  class Data:
    def get_state(self):
      return {}

  manager = checkpoint.open_manager(str(tmp_path), 1)
  with checkpoint.closing(manager):
    checkpoint.save(manager, TrainState(jnp.int32(3), trained, {}), Data())
  opened = load.open_generator(tmp_path, dtype="float32")
  assert list(opened.trained) == [HEAD]
  np.testing.assert_array_equal(opened.trained[HEAD][:], np.float32(head))


@pytest.mark.optimised
def test_a_reference_of_half_the_size_scores_the_same(params):
  """Bit for bit, with and without adapters next to it."""
  cast = trainable.cast_frozen(MODEL, params)
  for path, leaf in tree.flatten(cast).items():
    half = not path.startswith(("vision/", "tokenizer/"))
    assert (leaf.dtype == jnp.bfloat16) == half, path
  prompt = random_batch(2).prompt
  codes = np.asarray([[[1, 4, 2, 9]], [[0, 10, 3, 3]]], np.int32)
  adapters = lora.init(
    jax.random.key(5),
    lora.kernels(params, ("^language/",), MODEL.adaptable),
    2,
  )
  score = jax.jit(
    lambda params: sampling.score_images(
      MODEL, params, prompt, codes, Sampling(guidance=5.0), branches=True
    )
  )
  for more in ({}, adapters):
    jax.tree.map(
      np.testing.assert_array_equal,
      score(tree.merge(cast, more)),
      score(tree.merge(params, more)),
    )


def test_a_plan_holds_the_reference_in_the_compute_type():
  for rank in (0, 2):
    config, plan = make_plan(rl_config, **{"model.lora_rank": rank})
    _, frozen, _ = abstract_step.arguments(config, plan, 8)
    found = tree.flatten(frozen["reference"])
    assert {leaf.dtype.name for leaf in found.values()} == (
      set() if rank else {"bfloat16"}
    )
    trained = tree.flatten(plan.state.params)
    assert not found or found.keys() == trained.keys()
    assert {leaf.dtype.name for leaf in trained.values()} == {"float32"}
  config, plan = make_plan(rl_config, **{"objective.kl_weight": 0.0})
  assert rl.reference(config, plan) == {}


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_clip_is_laid_out_by_its_rules_and_rewards_the_same(clip_params, shape):
  data, model = shape
  _, plan = make_plan(
    rl_config, devices=8, **{"mesh.data": data, "mesh.model": model}
  )
  layout = plan.frozen["clip"]
  kernel = layout["vision_model"]["layers"]["mlp"]["fc1"]["kernel"]
  assert kernel.sharding.spec == jax.P(None, "data", "model")
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(clip_params))
  assert abstract_step.nbytes(layout) < size / 2

  def score(clip_params, batch):
    images = batch.future.astype(jnp.float32) / 255
    return rewards.score(
      CLIP.embed_images(clip_params, images),
      embed_targets(CLIP, clip_params, batch),
      rewards.from_options(
        {
          "text": {"weight": 1.0},
          "history": {"weight": 1.0, "pool": "recency", "recency_decay": 0.8},
          "future": {"weight": 1.0, "pool": "mean"},
          "copy": {"weight": 1.0, "threshold": 0.5},
        }
      ),
    )

  batch = random_batch(8)
  placed = jax.device_put(
    clip_params, jax.tree.map(lambda leaf: leaf.sharding, layout)
  )
  found = jax.jit(sharding.trace_with_mesh(plan.mesh, score))(
    placed, sharding.put_batch(plan.mesh, batch)
  )
  # Cosines, after sums over a patch and in a layer of width 16.
  rounding.assert_close(
    found, jax.jit(score)(clip_params, batch), terms=192 + 140, scale=1
  )


def test_what_a_mesh_does_not_divide_lies_whole():
  mesh = mesh_lib.make_mesh(4, 2)
  specs = {
    "a": jax.P("data", "model"),
    "b": jax.P(("data", "model")),
    "c": jax.P(),
  }
  arrays = {"a": jnp.zeros((6, 4)), "b": jnp.zeros(8), "c": jnp.zeros(3)}
  assert sharding.divided(mesh, specs, arrays) == {
    "a": jax.P(None, "model"),
    "b": jax.P(("data", "model")),
    "c": jax.P(),
  }
