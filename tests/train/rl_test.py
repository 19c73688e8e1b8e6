"""The RL step: on policy, one compilation, the same on any mesh."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax import rewards, sampling
from genrec_jax.analysis import hlo, hlo_collectives, hlo_walk
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.types import TrainState
from genrec_jax.testing import (
  ANSWERS,
  BOS,
  EOS,
  FAMILIES,
  image_ids,
  random_batch,
  tiny_clip,
  tiny_params,
)
from genrec_jax.train import rl
from genrec_jax.train.rl_options import Reading
from tests.logits import code_logits
from tests.rounding import score_bound
from tests.train import resume
from tests.train.gradients import (
  BOUND,
  KEEP,
  assert_float32,
  assert_same_gradient,
  gradient,
)
from tests.train.options import rl_options

CLIP = tiny_clip()
# Plain gradient descent: Adam's first steps turn rounding into signs. In small
# steps: at 0.1 the first alone moved the policy by a KL of 2, and the second
# multiplied the rounding of the first.
OPTIMIZER = optax.chain(KEEP, optax.sgd(0.01))
STEP = {
  "clip": CLIP,
  "optimizer": OPTIMIZER,
  "to_rollout_layout": lambda params: params,
}
OPTIONS = rl_options()
# What a model's own eyes are asked; little, next to rewards that spread less.
EYES = rewards.from_options({"eyes": {"weight": 0.1, "question": "?"}})
# How far apart two computations of a log-probability may be: of 16 codes that
# are about as likely, guided by 2.
SAME = score_bound(np.log(16), OPTIONS.sample.guidance)
MESHES = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (2, 2, 2)]  # data, model, slices


# Every test that asks for these runs for each family, and answers of each kind.
@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
  return FAMILIES[request.param]


@pytest.fixture(scope="module", params=ANSWERS)
def titles(request):
  return ANSWERS[request.param]


@pytest.fixture(scope="module")
def params(family):
  return tiny_params(family.model)


@pytest.fixture(scope="module")
def clip_params():
  return CLIP.init(jax.random.key(1))


def parts(family, params, clip_params, reference=1.0, optimizer=OPTIMIZER):
  """Returns fresh copies, the reference scaled: the state is donated."""
  params = jax.tree.map(jnp.copy, params)
  trainable, rest = tree.select(params, family.trainable)
  state = TrainState(jnp.int32(0), trainable, optimizer.init(trainable))
  frozen = {
    "generator_rest": rest,
    "clip": clip_params,
    "reference": jax.tree.map(lambda x: reference * x, trainable),
  }
  return state, frozen


def without_weights(rewards):
  return {name: one._replace(weight=0.0) for name, one in rewards.items()}


def of_kind(family, titles, **options):
  """Returns options of answers of a kind, with rewards of their titles."""
  if titles:
    ids = (BOS, *image_ids(family.model), 9)
    options = {
      "titles": titles,
      "rewards": OPTIONS.rewards | EYES,
      "reading": Reading(None, rewards.Question(ids, end_id=EOS)),
    } | options
  return dataclasses.replace(OPTIONS, **options)


def jitted(family, titles=None, **options):
  made_of = STEP | {"model": family.model}
  made_of |= {key: options.pop(key) for key in made_of.keys() & options}
  step = functools.partial(
    rl.train_step, **made_of, options=of_kind(family, titles, **options)
  )
  return jax.jit(step, donate_argnums=0)


def run(
  family,
  params,
  clip_params,
  steps,
  reference=1.0,
  titles=None,
  step=None,
  **options,
):
  """Returns the last state and each step's metrics and gradient."""
  optimizer = options.get("optimizer", OPTIMIZER)
  step = step or jitted(family, titles, **options)
  state, frozen = on_one_device(
    parts(family, params, clip_params, reference, optimizer)
  )
  found = []
  for i in range(steps):
    batch = jax.device_put(random_batch(8, i, titles, family.model))
    # Both as in a test: a step is compiled anew for other settings.
    with (
      jax.transfer_guard("disallow"),
      jax.numpy_rank_promotion("raise"),
    ):
      state, metrics = step(state, frozen, batch)
    found.append(jax.device_get(metrics) | {"gradient": gradient(state)})
  assert step._cache_size() == 1
  return state, found


def on_one_device(tree):
  """Returns arrays that are on the first device as restored ones are."""
  return jax.device_put(tree, jax.devices()[0])


@pytest.fixture(scope="module")
def step(family, titles):
  return jitted(family, titles)


@pytest.fixture(scope="module")
def single(family, params, clip_params, titles, step):
  return run(family, params, clip_params, 2, titles=titles, step=step)


def test_a_stopped_run_ends_as_if_it_had_not_been(
  family, params, clip_params, titles, step, single, tmp_path
):
  state, rows = resume.stopped_after_a_step(
    tmp_path,
    step,
    lambda: on_one_device(parts(family, params, clip_params)),
    lambda i: random_batch(8, int(i), titles, family.model),
  )
  expected, metrics = single
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert [row.pop("step") for row in rows] == [1, 2]
  for row, values in zip(rows, metrics, strict=True):
    assert row == {k: float(v) for k, v in values.items() if k != "gradient"}
  assert step._cache_size() == 1


def test_the_step_is_on_policy_and_moves_away_from_the_reference(
  family, params, titles, single
):
  state, metrics = single
  assert int(state.step) == 2
  parts = ("", "title_") if titles else ("",)
  for values in metrics:
    for part in parts:
      assert values[f"{part}sampler_mismatch_max"] < SAME
      assert values[f"{part}ratio_max_deviation"] == 0
    scalars = [v for name, v in values.items() if name != "gradient"]
    assert all(np.isfinite(v) and np.ndim(v) == 0 for v in scalars)
  for part in parts:
    # Half the square of such a difference.
    assert metrics[0][f"{part}kl"] < SAME**2
    assert metrics[1][f"{part}kl"] > metrics[0][f"{part}kl"]
  weights = of_kind(family, titles).weights
  total = sum(w * metrics[0][f"reward/{k}_mean"] for k, w in weights.items())
  np.testing.assert_allclose(metrics[0]["reward"], total, rtol=1e-5)
  before = tree.flatten(params)
  moved = {
    path: np.abs(new - before[path]).max()
    for path, new in tree.flatten(state.params).items()
  }
  # Where no text is sampled, Janus's head of words does not.
  idle = family.model.without_gradient(words=titles is not None)
  assert all(
    bool(change) != bool(re.fullmatch(idle, path))
    for path, change in moved.items()
  )


def sample(family, params, prompt, titles=None, gather=lambda params: params):
  """Samples what the first step samples."""
  params = sampling.rollout_params(
    family.model, params, gather, words=titles is not None
  )
  key = jax.random.fold_in(jax.random.key(OPTIONS.seed), 0)
  return sampling.sample_items(
    family.model, params, prompt, key, OPTIONS.sample, titles
  )


def prompts(family, titles):
  return random_batch(8, 0, titles, family.model).prompt


@pytest.fixture(scope="module")
def samples(family, params, titles):
  compiled = jax.jit(functools.partial(sample, family, titles=titles))
  return compiled(params, prompts(family, titles))


def laid_out(family, shape, params):
  """Returns a mesh, parameters on it, and how the rollout gathers them."""
  mesh = mesh_lib.make_mesh(*shape)
  specs = sharding.specs(family.rules, params)
  layout = sharding.shardings(mesh, sharding.drop_axis("data", specs))
  gather = functools.partial(jax.lax.with_sharding_constraint, shardings=layout)
  return mesh, specs, sharding.shard_params(mesh, specs, params), gather


@pytest.mark.optimised
@pytest.mark.parametrize("shape", MESHES)
def test_eight_devices_sample_what_one_samples(
  family, params, titles, samples, shape
):
  mesh, _, placed, gather = laid_out(family, shape, params)
  prompt = sharding.put_batch(mesh, prompts(family, titles))
  pinned = sharding.trace_with_mesh(
    mesh, functools.partial(sample, family, titles=titles, gather=gather)
  )
  found = jax.jit(pinned)(placed, prompt)
  np.testing.assert_array_equal(found.codes, samples.codes)
  np.testing.assert_allclose(
    found.logprobs, samples.logprobs, rtol=0, atol=SAME
  )
  if titles:
    jax.tree.map(np.testing.assert_array_equal, found.title, samples.title)
    np.testing.assert_allclose(
      found.title_logprobs, samples.title_logprobs, rtol=0, atol=SAME
    )


@pytest.mark.parametrize("shape", MESHES)
def test_eight_devices_step_as_one(
  family, params, clip_params, titles, single, shape
):
  mesh, specs, placed, gather = laid_out(family, shape, params)
  part = tree.select(specs, family.trainable)
  state, frozen = parts(family, placed, clip_params)
  like = sharding.shardings(mesh, sharding.specs_like_params(part[0], state))
  whole = jax.NamedSharding(mesh, sharding.REPLICATED)
  frozen["clip"] = jax.device_put(clip_params, whole)
  state = jax.device_put(state, like)
  step = jax.jit(
    sharding.trace_with_mesh(
      mesh,
      functools.partial(
        rl.train_step,
        **STEP | {"to_rollout_layout": gather, "model": family.model},
        options=of_kind(family, titles),
      ),
    ),
    donate_argnums=0,
    out_shardings=(like, whole),
  )
  for i in range(2):
    batch = random_batch(8, i, titles, family.model)
    batch = sharding.put_batch(mesh, batch)
    with jax.transfer_guard("disallow"):
      state, metrics = step(state, frozen, batch)
    if i == 0:
      assert_same_metrics(metrics, single[1][i])
      assert_same_gradient(gradient(state), single[1][i]["gradient"])
    else:  # of parameters which the rounding of a gradient has moved
      assert_same_metrics(metrics, single[1][i], rtol=BOUND)
  assert step._cache_size() == 1
  expected = tree.flatten(single[0].params)
  for path, value in tree.flatten(state.params).items():
    np.testing.assert_allclose(value, expected[path], atol=1e-5, err_msg=path)


# What is the rounding of numbers near each other, by nature, is held to that of
# those numbers.
ROUNDING = {
  # Of log-probabilities: the sampler's and the same again.
  "sampler_mismatch_mean": SAME,
  "sampler_mismatch_max": SAME,
  # Of a log-probability times its distance from the reference's, on average.
  "kl": 1e-7,
  "kl_conditional": 1e-7,
  # Before the update the ratio is 1 and a group's advantages add up to 0: of
  # the policy's loss nothing but the rounding of terms of about 0.1 is left.
  "policy_loss": 1e-7,
  "loss": 1e-7,
}


def assert_same_metrics(metrics, expected, rtol=1e-5):
  """Holds each to 1e-5 of itself, beyond the rounding of its terms."""
  assert metrics.keys() == expected.keys() - {"gradient"}
  for name, value in metrics.items():
    atol = ROUNDING.get(name.removeprefix("title_"), 0)
    if name.endswith("_std"):  # of differences of rewards, which are up to 1
      atol = 1e-6
    if name.endswith("eyes_std"):  # but these: log-probabilities of many nats
      atol = SAME
    if name.endswith("_contribution"):  # those over spreads of about 0.1
      atol = 1e-5
    np.testing.assert_allclose(
      value, expected[name], rtol=rtol, atol=atol, err_msg=name
    )


def test_microbatches_equal_the_whole(
  family, params, clip_params, titles, single
):
  _, (metrics,) = run(
    family, params, clip_params, 1, titles=titles, microbatches=4
  )
  assert_same_gradient(metrics.pop("gradient"), single[1][0]["gradient"])
  assert_same_metrics(metrics, single[1][0])


@pytest.mark.parametrize("free", [False, True])
def test_no_parameter_is_gathered_in_the_decode_loop(
  family, params, titles, free
):
  mesh, _, placed, gather = laid_out(family, (8, 1), params)
  prompt = sharding.put_batch(mesh, prompts(family, titles))
  of_kind = functools.partial(sample, family, titles=titles)
  if free:
    lowered = jax.jit(of_kind).lower(placed, prompt)
  else:
    pinned = sharding.trace_with_mesh(
      mesh, functools.partial(of_kind, gather=gather)
    )
    lowered = jax.jit(pinned).lower(placed, prompt)
  program = hlo.parse(lowered.compile().as_text())
  assert any(loop.is_of("decode") for loop in hlo_walk.loops(program))
  moved = hlo_collectives.find(program)
  inside = [one.kind for one in moved if one.within("decode")]
  # Of a layout that is left to XLA there is something to find.
  assert bool(inside) == free, inside
  if titles and not free:  # of titles devices ask only whether all have ended
    inside = {one.kind for one in moved if one.within("answer")}
    assert inside <= {"all-reduce"}, inside
  assert any(one.kind == "all-gather" for one in moved)


def test_inner_epochs_take_more_than_one_update(
  family, params, clip_params, titles, single
):
  state, metrics = run(
    family, params, clip_params, 1, titles=titles, inner_epochs=3
  )
  for part in ("", "title_") if titles else ("",):
    assert metrics[0][f"{part}sampler_mismatch_max"] < SAME
    # From the second epoch on the policy is no longer the one that sampled.
    assert metrics[0][f"{part}ratio_max_deviation"] > 1e-4
  assert metrics[0]["reward"] == single[1][0]["reward"]
  assert int(state.step) == 1


def test_conditional_scoring_leaves_guidance_out(family, params, clip_params):
  """Without rewards, the gradient is that of the KL; both by hand."""
  model, scale = family.model, 1.1
  batch = random_batch(8, model=model)
  samples = jax.jit(functools.partial(sample, family))(params, batch.prompt)
  trainable, rest = tree.select(params, family.trainable)

  def kl(trainable, guidance):
    def score(trainable):
      whole = tree.merge(trainable, rest)
      logits, others = (
        code_logits(model, whole, one, samples.codes)
        for one in (batch.prompt, model.unconditional(batch.prompt))
      )
      if guidance != 1:
        logits = others + guidance * (logits - others)
      scores = jax.nn.log_softmax(logits)
      return jnp.take_along_axis(scores, samples.codes[..., None], -1)

    reference = score(jax.tree.map(lambda x: scale * x, trainable))
    difference = jax.lax.stop_gradient(reference) - score(trainable)
    return jnp.mean(jnp.exp(difference) - 1 - difference)

  @jax.jit
  def by_hand(trainable):
    return jax.value_and_grad(kl)(trainable, 1), kl(trainable, 2.0)

  (expected, slopes), guided = by_hand(trainable)
  _, (metrics,) = run(
    family,
    params,
    clip_params,
    1,
    reference=scale,
    scoring="conditional",
    rewards=without_weights(OPTIONS.rewards),
  )
  np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
  weight = OPTIONS.objective.kl_weight
  assert_same_gradient(
    metrics["gradient"],
    {path: weight * slope for path, slope in tree.flatten(slopes).items()},
  )
  assert abs(guided - expected) > 0.1 * expected
  with pytest.raises(ValueError, match="scoring='sampled'"):
    run(family, params, clip_params, 1, scoring="sampled")
  assert "sampler_mismatch_max" not in metrics  # of another distribution


def test_bfloat16_computes_and_float32_is_kept(
  family, params, clip_params, titles, single
):
  state, (metrics,) = run(
    family,
    params,
    clip_params,
    1,
    titles=titles,
    model=family.model.with_compute(dtype="bfloat16"),
    optimizer=optax.chain(KEEP, optax.adamw(1e-3)),
    advantage="reinforce",
  )
  assert_float32(state)
  # At a ratio of 1 and a KL of 0 it is minus the reward. Rounding redraws some
  # codes: three standard errors of the difference of two means of 32 images,
  # whose rewards spread by 0.07 within a group.
  parts = 2 if titles else 1  # each learns by all of the reward
  np.testing.assert_allclose(
    metrics["loss"], -parts * single[1][0]["reward"], atol=parts * 0.05
  )
  # Logits of a few units, rounded to eight bits and tripled by guidance.
  assert 1e-4 < metrics["sampler_mismatch_max"] < 0.2
  assert metrics["ratio_max_deviation"] == 0
  np.testing.assert_allclose(
    metrics["loss"], -parts * metrics["reward"], atol=1e-3
  )


def test_images_are_read_once_where_their_reader_is_frozen(
  family, params, clip_params, monkeypatch
):
  count = []
  kind, read = type(family.model), type(family.model).read_images

  def counted(self, params, images):
    count.append(images.shape)
    return read(self, params, images)

  monkeypatch.setattr(kind, "read_images", counted)
  _, once = run(family, params, clip_params, 1)
  assert len(count) == 1
  # A new function, traced anew: as if the reader were trained.
  monkeypatch.setattr(rl.trainable, "reads_as_frozen", lambda *_: False)
  count.clear()
  _, each = run(family, params, clip_params, 1)
  assert len(count) > 1
  assert_same_gradient(once[0]["gradient"], each[0]["gradient"])
