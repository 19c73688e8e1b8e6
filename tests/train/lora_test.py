"""Runs that train adapters only, from main.py's tasks to an export."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import rl as rl_config
from configs import sft as sft_config
from genrec_jax import rewards, sampling
from genrec_jax.analysis import hlo, hlo_collectives
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.types import TrainState
from genrec_jax.hf import load
from genrec_jax.hf.export import export_checkpoint
from genrec_jax.models import janus
from genrec_jax.nn import lora
from genrec_jax.sampling import Sampling
from genrec_jax.testing import (
  ANSWERS,
  FAMILIES,
  random_batch,
  tiny_clip,
  tiny_janus,
  tiny_params,
)
from genrec_jax.train import build, loop, rl, sft
from genrec_jax.train.plan import make_plan
from tests.hf import tiny_emu3
from tests.hf import tiny_janus as saved
from tests.rounding import score_bound
from tests.train.gradients import assert_same_gradient


@pytest.fixture(scope="module", autouse=True)
def alone():
  """Runs on one device: eight fake ones of a real run may starve."""
  with pytest.MonkeyPatch.context() as patch:
    plan = functools.partial(make_plan, devices=jax.devices()[:1])
    patch.setattr(build, "make_plan", plan)
    yield


def run(task, module, folder, **options):
  """Runs a task of the debug config; returns its workdir.

  Its step must compile once, whatever evaluations and restores come between.
  """
  config = module.get_config("debug")
  config.update_from_flattened_dict(
    {"train.eval_every": 0, "eval.base": ""} | options
  )
  steps, run_loop = [], loop.run

  def spy(inputs, *args, **options):
    steps.append(inputs.step)
    return run_loop(inputs, *args, **options)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "run", spy)
    task.run(config, str(folder))
  assert [step._cache_size() for step in steps] == [1]
  return folder


LORA = {"model.lora_rank": 4, "train.eval_every": 2}


# Every test that asks for it runs for answers of each kind, and for Emu3.
@pytest.fixture(scope="module", params=[*ANSWERS, "emu3"])
def options(request, tmp_path_factory):
  """Options of all of a module's runs."""
  if request.param in ANSWERS:
    return {"model.answer": request.param, "model.checkpoint": "tiny_base"}
  # A random one, whose images are as large as the world's.
  folder = tiny_emu3.save(tmp_path_factory.mktemp("emu3") / "model")
  return {
    "model.answer": "image",
    "model.checkpoint": str(folder),
    "model.trainable": ("^language/",),
  }


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, options):
  folder = tmp_path_factory.mktemp("lora") / "sft"
  return run(sft, sft_config, folder, **LORA, **options)


def rows(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_a_checkpoint_holds_adapters_only(tuned):
  found = tree.flatten(saved.read_params(str(tuned)))
  assert len(found) == 14
  for path, value in found.items():
    assert path.startswith("language/layers/")
    assert 4 in value.shape
    assert path.endswith(("/lora_a", "/lora_b"))
    assert value.any(), path  # B, too, has moved
  summary = json.loads((tuned / "summary.json").read_text())
  assert {"base", "sft"} <= summary["models"].keys()


def test_a_stopped_run_ends_as_if_it_had_not_been(tuned, options, tmp_path):
  again = tmp_path / "sft"
  shutil.copytree(tuned, again)
  shutil.rmtree(again / "checkpoints" / "4")
  run(sft, sft_config, again, **LORA, **options)
  jax.tree.map(
    np.testing.assert_array_equal,
    saved.read_params(str(again)),
    saved.read_params(str(tuned)),
  )
  assert rows(again) == rows(tuned)


def language(path):
  """Reads the language model only."""
  opened = load.open_generator(path, dtype="float32")
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = {"language": opened.shapes["language"]}
  return opened.read(jax.tree.map(lambda _: here, shapes))


def test_an_export_computes_what_was_trained(tuned, options, tmp_path):
  opened = load.open_generator(tuned, dtype="float32")
  export_checkpoint(tmp_path / "out", opened, "float32")
  base = language(options["model.checkpoint"])
  exported = language(tmp_path / "out")
  trained = tree.merge(base, saved.read_params(str(tuned)))

  # Logits reach 11, of which float32 products leave 1e-5: in float64 the
  # export's own rounding is left.
  with jax.enable_x64(True):
    model = dataclasses.replace(opened.model.language, dtype=jnp.float64)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (2, 9))

    @jax.jit
    def compute(params):
      params = jax.tree.map(lambda x: x.astype(jnp.float64), params["language"])
      embeds = model.embed(params, ids)
      hidden = model.hidden_states(params, embeds, np.ones(ids.shape, bool))
      return model.logits(params, hidden)

    unmerged = compute(trained)
    np.testing.assert_allclose(compute(exported), unmerged, atol=1e-5)
    assert np.abs(compute(base) - unmerged).max() > 1e-3


def test_rl_goes_on_from_a_run_with_adapters_with_its_own(
  tuned, options, monkeypatch
):
  frozen, parts_of = {}, [""]
  if options["model.answer"] == "title_image":  # with all rewards of titles
    weights = {f"rewards.{name}.weight": 0.5 for name in rewards.OF_TITLES}
    options, parts_of = options | weights, ["", "title_"]
  train = rl.train

  def spy(config, workdir, parts, *args, **options):
    frozen.update(parts.frozen)
    # One copy of the weights: without adapters they are the reference.
    assert frozen.keys() == {"generator_rest", "clip", "reference"}
    assert not jax.tree.leaves(frozen["reference"])
    return train(config, workdir, parts, *args, **options)

  monkeypatch.setattr(rl, "train", spy)
  folder = run(
    rl,
    rl_config,
    tuned.parent / "rl",
    **options
    | {
      "model.lora_rank": 2,
      "model.checkpoint": str(tuned),
      "rl.estimator": "both",  # samples and slopes reach adapters alike
      "train.steps": 2,
      "optim.lr": 0.01,
    },
  )
  first, second = (row for row in rows(folder) if "reward" in row)
  for part in parts_of:
    name = f"{part}sampler_mismatch_max"
    assert max(row[name] for row in (first, second)) < 1e-4
    assert first[f"{part}kl"] < 1e-8 < second[f"{part}kl"]
  if len(parts_of) > 1:
    assert 0 <= first["title_cut"] <= 1
    for name in rewards.OF_TITLES:
      assert first[f"reward/{name}_std"] > 0
  assert all(
    2 in leaf.shape for leaf in jax.tree.leaves(saved.read_params(str(folder)))
  )
  # Merged over what SFT's adapters had been merged into.
  opened = load.open_generator(folder, dtype="float32")
  before = load.open_generator(tuned, dtype="float32")
  path = "language/layers/mlp/down_proj/kernel"
  index = (slice(1, 2), slice(None), slice(None))
  a, b = (
    tree.flatten(saved.read_params(str(folder)))[lora.sibling(path, name)][1]
    for name in (lora.A, lora.B)
  )
  np.testing.assert_allclose(
    opened.trained[path][1],
    before.trained[path].read(index, np.float32)[0] + 2 * a @ b,
    atol=1e-6,
  )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_no_kernel_has_a_gradient(family):
  model, optimizer = family.model, optax.adam(1e-3)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  patterns = ("^language/layers/",)
  kernels = lora.kernels(shapes, patterns, model.adaptable)
  adapters = jax.eval_shape(
    functools.partial(lora.init, rank=2), jax.random.key(0), kernels
  )
  batch = random_batch(4, model=model)

  def lowered(trainable, rest):
    state = TrainState(
      jax.ShapeDtypeStruct((), jnp.int32),
      trainable,
      jax.eval_shape(optimizer.init, trainable),
    )
    step = functools.partial(
      sft.train_step,
      model=model,
      optimizer=optimizer,
      options=sft.SFTOptions(seed=0, microbatches=1, condition_dropout=0.0),
    )
    return jax.jit(step).lower(state, {"generator_rest": rest}, batch)

  full = lowered(*tree.select(shapes, patterns))
  some = lowered(adapters, shapes)

  def stacks(one):
    """Finds the kernels' stacks that a loop writes layer by layer."""
    writes = [
      line.rpartition("->")[2]
      for line in one.as_text().splitlines()
      if "dynamic_update_slice" in line
    ]
    return {s for s in stacked if any(s in result for result in writes)}

  stacked = {
    f"tensor<{'x'.join(map(str, leaf.shape))}xf32>"
    for leaf in jax.tree.leaves(kernels)
  }
  assert stacks(full) == stacked
  assert not stacks(some)
  flops = [one.cost_analysis()["flops"] for one in (full, some)]
  # Of the prompts' products alone, and of one layer: a loop's body counts once.
  layer = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(kernels))
  assert flops[0] - flops[1] > 0.5 * 2 * batch.prompt.ids.size * layer


def test_a_plan_splits_adapters_and_halves_what_is_frozen():
  config = sft_config.get_config("debug")
  config.model.lora_rank = 2
  config.mesh.data, config.mesh.model = 4, 2
  model = tiny_janus(dtype="bfloat16")
  plan = make_plan(
    config,
    model=model,
    rules=janus.RULES,
    clip=tiny_clip(),
    devices=jax.devices(),
  )
  trained = tree.flatten(plan.state.params)
  path = "language/layers/mlp/down_proj"
  assert trained[f"{path}/lora_a"].sharding.spec == jax.P(None, "model", None)
  assert trained[f"{path}/lora_b"].sharding.spec == jax.P(None, None, "data")
  shapes = {leaf.shape for leaf in trained.values()}
  moments = {leaf.shape for leaf in jax.tree.leaves(plan.state.opt_state)}
  assert moments == shapes | {()}
  assert {leaf.dtype for leaf in trained.values()} == {jnp.dtype("float32")}
  frozen = tree.flatten(plan.frozen["generator_rest"])
  assert frozen.keys() == tree.flatten(plan.params).keys()
  assert frozen[f"{path}/kernel"].dtype == jnp.bfloat16
  for name, leaf in frozen.items():
    if name.startswith(("vision/", "tokenizer/")):
      assert leaf.dtype == jnp.float32, name


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_eight_devices_draw_and_learn_as_one(family):
  model = family.model
  batch, params = random_batch(8, model=model), tiny_params(model)
  patterns = ("^language/layers/",)
  kernels = lora.kernels(params, patterns, model.adaptable)
  keys = iter(jax.random.split(jax.random.key(1), 14))
  adapters = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape),
    lora.init(jax.random.key(2), kernels, 2),
  )
  base = sharding.specs(family.rules, params)
  beside = lora.specs(lora.kernels(base, patterns, model.adaptable))
  mesh = mesh_lib.make_mesh(4, 2)
  layout = sharding.drop_axis("data", tree.merge(base, beside))

  def learn(adapters, params, prompt, gather=lambda params: params):
    whole = tree.merge(params, adapters)
    rollout = sampling.sample_images(
      model,
      sampling.rollout_params(model, whole, gather),
      prompt,
      jax.random.key(3),
      Sampling(num_samples=2, guidance=2.0),
    )

    def loss(adapters):
      scores, *_ = sampling.score_images(
        model,
        tree.merge(params, adapters),
        prompt,
        rollout.codes,
        Sampling(guidance=2.0),
      )
      return scores.mean()

    return rollout, jax.grad(loss)(adapters)

  gather = functools.partial(
    jax.lax.with_sharding_constraint,
    shardings=sharding.shardings(mesh, layout),
  )
  expected, slopes = jax.jit(learn)(adapters, params, batch.prompt)
  inputs = (
    sharding.shard_params(mesh, beside, adapters),
    sharding.shard_params(mesh, base, params),
    sharding.put_batch(mesh, batch.prompt),
  )
  step = sharding.trace_with_mesh(mesh, functools.partial(learn, gather=gather))
  compiled = jax.jit(step).lower(*inputs).compile()
  found, theirs = compiled(*inputs)
  np.testing.assert_array_equal(found.codes, expected.codes)
  bound = score_bound(expected.logprobs, guidance=2.0)
  np.testing.assert_allclose(
    found.logprobs, expected.logprobs, rtol=0, atol=bound
  )
  assert_same_gradient(tree.flatten(theirs), tree.flatten(slopes))
  # Of each layer two sums, in which those of adapters travel along.
  moved = [
    one.kind
    for one in hlo_collectives.find(hlo.parse(compiled.as_text()))
    if one.within("decode") and "Block" in one.op_name
  ]
  assert moved == ["all-reduce"] * 2 * model.language.num_layers
