"""External reward: a function on the host, and every way that it fails."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding
from genrec_jax.core.errors import UserError
from genrec_jax.objectives import advantages
from genrec_jax.rewards import external as external_lib
from genrec_jax.runtime import metric_writer
from genrec_jax.train import rl
from tests.rewards.cosines_test import IMAGES, TARGETS, at
from tests.train import toy
from tests.train.options import rl_options

LET_GO = threading.Event()  # of those that hang, so that none is left


# What the tests' rewards are; `external` imports them by name.
def brightness(images, metadata):
  assert images.dtype == np.uint8
  return images.mean((1, 2, 3)) + metadata["number"]


def breaks_on_odd(images, metadata):
  if metadata["number"] % 2:
    raise RuntimeError("an odd one")
  return brightness(images, metadata)


def hangs_on_one(images, metadata):
  if metadata["number"] == 1:
    LET_GO.wait(60)
  return brightness(images, metadata)


def unfinished(images, metadata):
  return [np.nan if metadata["number"] == 2 else 1.0, np.inf, 3.0]


def too_few(images, metadata):
  return brightness(images, metadata)[1:]


def words(images, metadata):
  return ["a", "b", "c"]


def writes(images, metadata):
  images[:] = 0
  return images[:, 0, 0, 0]


IMAGE = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4, 3), np.uint8)
NUMBERS = np.arange(8, dtype=np.int32)
EXPECTED = IMAGE.mean((2, 3, 4)) + NUMBERS[:, None]


def score(name, images=IMAGE, numbers=NUMBERS, seconds=30.0, threads=1):
  return external_lib.external(
    images,
    numbers,
    lambda number: {"number": number},
    function=f"{__name__}:{name}",
    seconds=seconds,
    threads=threads,
  )


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_each_prompt_is_asked_for_with_its_own_metadata(threads):
  got = jax.jit(lambda x, n: score("brightness", x, n, threads=threads))(
    IMAGE, NUMBERS
  )
  np.testing.assert_allclose(got, EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_on_a_mesh_each_prompt_is_asked_for_once(shape, monkeypatch):
  asked = []

  def counted(images, metadata):
    asked.append(metadata["number"])
    return brightness(images, metadata)

  monkeypatch.setitem(globals(), "counted", counted)
  mesh = mesh_lib.make_mesh(*shape)

  def counted_score(images, numbers):
    return score("counted", images, numbers)

  step = jax.jit(sharding.trace_with_mesh(mesh, counted_score))
  with jax.transfer_guard("disallow"):
    got = step(*sharding.put_batch(mesh, (IMAGE, NUMBERS)))
  np.testing.assert_allclose(got, EXPECTED, rtol=1e-6)
  assert sorted(asked) == NUMBERS.tolist()


@pytest.mark.parametrize(
  ("name", "lost"),
  [
    ("breaks_on_odd", NUMBERS % 2 == 1),
    ("hangs_on_one", NUMBERS == 1),
    ("too_few", NUMBERS >= 0),
    ("words", NUMBERS >= 0),
  ],
)
def test_what_fails_is_nan_for_its_prompt_alone(name, lost, capfd):
  external_lib._said.clear()
  LET_GO.clear()
  begun = time.monotonic()
  got = np.asarray(score(name, seconds=0.5, threads=1))
  LET_GO.set()
  assert time.monotonic() - begun < 20  # not the 60 s that it hangs
  assert np.isnan(got[lost]).all()
  np.testing.assert_allclose(got[~lost], EXPECTED[~lost], rtol=1e-6)
  told = capfd.readouterr().err
  assert told.count("rewards.external failed (") == 1  # once, not each time


def test_single_samples_may_fail_and_none_of_them_is_0():
  got = np.asarray(score("unfinished"))
  assert np.isnan(got[:, 1]).all()  # inf
  np.testing.assert_array_equal(got[:, 2], 3)
  np.testing.assert_array_equal(np.isnan(got[:, 0]), NUMBERS == 2)


def test_what_a_function_does_to_its_images_stays_there():
  given = IMAGE.copy()
  score("writes", given)
  np.testing.assert_array_equal(given, IMAGE)


def test_a_probe_refuses_what_would_fail_in_the_run():
  def probe(name, seconds=30.0):
    rewards.probe(
      f"{__name__}:{name}",
      lambda number: {"number": number + 1},
      IMAGE[0],
      seconds=seconds,
    )

  probe("brightness")
  for name, message in (
    ("breaks_on_odd", "RuntimeError: an odd one"),
    ("too_few", r"it returned \[2\]; expected one number for each of 3"),
    ("words", "ValueError: could not convert"),
  ):
    with pytest.raises(UserError, match=message):
      probe(name)
  LET_GO.clear()
  with pytest.raises(UserError, match=r"no answer within 0.2 s"):
    probe("hangs_on_one", seconds=0.2)
  LET_GO.set()


# --- in a step --------------------------------------------------------------


@pytest.mark.parametrize(
  ("normalise", "advantage"),
  [
    ("group", "grpo"),
    ("batch", "dr_grpo"),
    ("batch", "grpo"),
    ("none", "rloo"),
    ("none", "reinforce"),
  ],
)
def test_a_dropped_group_is_as_good_as_absent(normalise, advantage):
  rng = np.random.default_rng(1)
  raw = {
    name: np.float32(rng.normal(size=(4, 3))) for name in ("text", "external")
  }
  weights = {"text": 0.7, "external": 0.4}
  kept = np.array([True, False, True, False])
  spoilt = raw | {"external": raw["external"].copy()}
  spoilt["external"][1, 2] = spoilt["external"][3] = np.nan
  choice = {"normalise": normalise, "advantage": advantage}
  values, metrics = advantages.combine(
    {k: jnp.asarray(v) for k, v in spoilt.items()},
    weights,
    kept=jnp.asarray(kept),
    **choice,
  )
  alone, expected = advantages.combine(
    {k: jnp.asarray(v[kept]) for k, v in raw.items()}, weights, **choice
  )
  np.testing.assert_array_equal(values[~kept], 0)
  np.testing.assert_allclose(values[kept], alone, rtol=1e-5, atol=1e-6)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def rewarded(external):
  """Returns `reward_samples` of two groups of two, and an external reward."""
  sections = {
    "text": {"weight": 1.0},
    "external": {
      "weight": 0.5,
      "function": f"{__name__}:brightness",
      "seconds": 1.0,
      "threads": 1,
    },
  }
  found = rewards.from_options(sections)
  options = rl_options(
    rewards=found
    | {"external": found["external"]._replace(score=lambda x, n: external)}
  )
  assert options.looking == {"clip", "host"}
  images = jnp.concatenate([IMAGES, at(10, 60)[None]])
  targets = jax.tree.map(lambda x: jnp.concatenate([x, x]), TARGETS)
  views = {
    "clip": rewards.View(images, targets),
    "host": rewards.View(images, None),
  }
  raw = rewards.score_views(views, options.rewards)
  values, metrics = rl.weigh_rewards(raw, options.weights, options)
  return np.asarray(values), jax.device_get(metrics)


def test_a_failure_is_counted_and_in_no_mean():
  values, metrics = rewarded(jnp.array([[1.0, 3.0], [jnp.nan, 9.0]]))
  # Texts of 0.5 and 1, raw, and half of 1 and 3: a mean of 1.75.
  np.testing.assert_allclose(values, [[-0.75, 0.75], [0, 0]], rtol=1e-6)
  assert metrics["reward/external_failed"] == 0.25
  assert metrics["reward/external_dropped"] == 0.5
  assert metrics["reward/external_mean"] == 2
  assert metrics["reward/external_std"] == 1
  np.testing.assert_allclose(metrics["reward"], 1.75, rtol=1e-6)
  _, metrics = rewarded(jnp.array([[1.0, 3.0], [2.0, 9.0]]))
  assert metrics["reward/external_failed"] == 0
  assert metrics["reward/external_dropped"] == 0


def test_where_all_fail_there_is_no_reward_and_not_one_of_0():
  values, metrics = rewarded(jnp.full((2, 2), jnp.nan))
  np.testing.assert_array_equal(values, 0)
  assert np.isnan(metrics["reward"])
  assert metrics["reward/external_dropped"] == 1


# --- in a run ---------------------------------------------------------------

BACK = threading.Event()  # the service that went away is
CALLS_LEFT = iter(())  # until it goes


def goes_away(images, metadata):
  if next(CALLS_LEFT, None) is None and not BACK.is_set():
    raise ConnectionError("the service went away")
  return brightness(images, metadata)


def train_on_it(workdir, monkeypatch, calls=0):
  """Trains a toy whose targets grow with what a function on the host says."""
  monkeypatch.setitem(globals(), "CALLS_LEFT", iter(range(calls)))
  options = rl_options(rewards={}, normalise="batch")

  def step(state, frozen, batch):
    light = jnp.stack([batch["x"], 2 * batch["x"]], 1)  # [P, G, 4]
    images = jnp.clip(128 + 40 * light, 0, 255).astype(jnp.uint8)
    images = jnp.broadcast_to(images[..., None, None], (8, 2, 4, 4, 3))
    raw = {"external": score("goes_away", images, jnp.arange(8))}
    values, metrics = rl.weigh_rewards(raw, {"external": 1.0}, options)
    batch = batch | {"y": batch["y"] + values[:, :1]}
    state, found = toy.train_step(state, frozen, batch)
    return state, metrics | found

  inputs = toy.make_inputs(step=jax.jit(step, donate_argnums=0))
  return toy.run(workdir, inputs, eval_every=0)


def test_a_service_that_goes_away_in_a_run_loses_nothing(tmp_path, monkeypatch):
  BACK.set()
  expected = train_on_it(tmp_path / "whole", monkeypatch)
  BACK.clear()
  with pytest.raises(UserError) as error:
    # Seven steps of eight prompts; the checkpoint before is of the sixth.
    train_on_it(tmp_path / "stopped", monkeypatch, calls=7 * 8)
  assert "failed for every prompt of step 8: training stopped and" in str(
    error.value
  )
  assert f"is {tmp_path}/stopped/checkpoints/6; put" in str(error.value)
  BACK.set()
  state = train_on_it(tmp_path / "stopped", monkeypatch)
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  one, other = (
    (tmp_path / name / metric_writer.FILE).read_bytes()
    for name in ("whole", "stopped")
  )
  assert one == other
  assert b"NaN" not in one
