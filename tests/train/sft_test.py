"""The SFT step: its loss by another way, dropout, and any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax import sampling
from genrec_jax.core import mesh as mesh_lib
from genrec_jax.core import sharding, tree
from genrec_jax.core.types import Title, TrainState
from genrec_jax.sampling import Sampling
from genrec_jax.testing import ANSWERS, FAMILIES, random_batch, tiny_params
from genrec_jax.train import sft
from tests import rounding
from tests.bandit import Bandit, bandit_batch
from tests.rounding import TINY_JANUS_TERMS
from tests.train import resume
from tests.train.gradients import (
  KEEP,
  assert_float32,
  assert_same_gradient,
  gradient,
)

OPTIMIZER = optax.chain(KEEP, optax.sgd(0.1))
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
def batch(family, titles):
  return random_batch(8, 0, titles, family.model)


def make(family, params, dropout, microbatches=1, **options):
  options = {
    "model": family.model,
    "optimizer": OPTIMIZER,
  } | options
  own = sft.SFTOptions(
    seed=0, microbatches=microbatches, condition_dropout=dropout
  )
  copies = jax.tree.map(jnp.copy, params)
  trainable, rest = tree.select(copies, family.tuned)
  opt_state = options["optimizer"].init(trainable)
  step = functools.partial(sft.train_step, options=own, **options)
  state = TrainState(jnp.int32(0), trainable, opt_state)
  return step, state, {"generator_rest": rest}


def run(family, params, batch, dropout, steps=1, **options):
  """Returns the last state, all losses, and the first step's gradient."""
  step, state, frozen = make(family, params, dropout, **options)
  step = jax.jit(step, donate_argnums=0)
  return take(step, state, frozen, batch, steps)


def take(step, state, frozen, batch, steps):
  """Returns what `run` returns, of a jitted step."""
  batch, frozen = jax.device_put((batch, frozen))
  losses, first = [], None
  for _ in range(steps):
    # Both as in a test: a step is compiled anew for other settings.
    with (
      jax.transfer_guard("disallow"),
      jax.numpy_rank_promotion("raise"),
    ):
      state, metrics = step(state, frozen, batch)
    losses.append(float(metrics["loss"]))
    first = gradient(state) if len(losses) == 1 else first
  assert step._cache_size() == 1
  return state, losses, first


def test_loss_is_minus_the_score_of_the_real_answers(family, params, batch):
  model = family.model
  codes = jax.jit(model.encode_pixels)(
    params, batch.future[:, 0] / np.float32(255)
  )
  score = jax.jit(
    functools.partial(sampling.score_images, model, sampling=Sampling())
  )
  for dropout, prompt in (
    (0.0, batch.prompt),
    (1.0, model.unconditional(batch.prompt)),
  ):
    _, losses, _ = run(family, params, batch, dropout)
    title = batch.title
    if title is not None and dropout:  # hidden with the history, not learned
      title = title.replace(words=np.zeros_like(title.words))
    scores = score(params, prompt, codes[:, None], title=title)
    expected = -scores.logprobs.mean()
    if title is not None and not dropout:
      written = np.asarray(batch.title.written)
      own = np.asarray(scores.title.logprobs).sum(-1) / written.sum(-1)
      expected -= own.mean()
    rounding.assert_close(losses[0], expected, terms=2 * TINY_JANUS_TERMS)


def test_it_learns_a_batch_by_heart(family, params, batch):
  _, losses, _ = run(family, params, batch, 0.0, steps=60)
  assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def step(family, params, titles):
  del titles  # a step of its own for answers of each kind
  return jax.jit(make(family, params, 0.5)[0], donate_argnums=0)


def start(family, params):
  """Returns state and frozen, on the first device as restored ones are."""
  return jax.device_put(make(family, params, 0.5)[1:], jax.devices()[0])


@pytest.fixture(scope="module")
def alone(family, params, batch, step):
  return take(step, *start(family, params), batch, 2)


def test_a_stopped_run_ends_as_if_it_had_not_been(
  family, params, batch, step, alone, tmp_path
):
  state, rows = resume.stopped_after_a_step(
    tmp_path, step, lambda: start(family, params), lambda i: batch
  )
  expected, losses, _ = alone
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert [row["loss"] for row in rows] == losses
  assert step._cache_size() == 1


def assert_same_params(state, expected):
  expected = tree.flatten(expected.params)
  for path, value in tree.flatten(state.params).items():
    np.testing.assert_allclose(value, expected[path], atol=1e-5, err_msg=path)


def test_microbatches_equal_the_whole(family, params, batch, alone):
  state, losses, first = run(
    family, params, batch, 0.5, steps=2, microbatches=2
  )
  rounding.assert_close(losses, alone[1], terms=TINY_JANUS_TERMS)
  assert_same_gradient(first, alone[2])
  assert_same_params(state, alone[0])


def test_bfloat16_computes_and_float32_is_kept(family, params, batch, alone):
  state, losses, _ = run(
    family,
    params,
    batch,
    0.5,
    model=family.model.with_compute(dtype="bfloat16"),
    optimizer=optax.chain(KEEP, optax.adamw(1e-3)),
  )
  assert_float32(state)
  # Each product is rounded to eight bits, 2**-9 of itself; in the mean over 32
  # codes most of that cancels, and what is left of some ten in a row is this.
  np.testing.assert_allclose(losses[0], alone[1][0], rtol=2**-7)
  assert losses[0] != pytest.approx(alone[1][0], rel=1e-5)


@pytest.mark.parametrize("shape", MESHES)
def test_eight_devices_equal_one(family, params, batch, alone, shape):
  mesh = mesh_lib.make_mesh(*shape)
  specs = sharding.specs(family.rules, params)
  placed = sharding.shard_params(mesh, specs, params)
  step, state, frozen = make(family, placed, 0.5)
  part = tree.select(specs, family.tuned)[0]
  like = sharding.shardings(mesh, sharding.specs_like_params(part, state))
  whole = jax.NamedSharding(mesh, sharding.REPLICATED)
  step = jax.jit(
    sharding.trace_with_mesh(mesh, step),
    donate_argnums=0,
    out_shardings=(like, whole),
  )
  state, batch = jax.device_put(state, like), sharding.put_batch(mesh, batch)
  for i, expected in enumerate(alone[1]):
    with jax.transfer_guard("disallow"):
      state, metrics = step(state, frozen, batch)
    rounding.assert_close(metrics["loss"], expected, terms=TINY_JANUS_TERMS)
    if i == 0:
      assert_same_gradient(gradient(state), alone[2])
  assert_same_params(state, alone[0])


def test_hidden_titles_are_not_learned_and_the_others_count_for_them():
  dropped = jnp.asarray([False, True, False, False])
  found = sft.title_counts(dropped)
  np.testing.assert_allclose(found, [4 / 3, 0, 4 / 3, 4 / 3])
  np.testing.assert_array_equal(sft.title_counts(jnp.ones(2, bool)), [0, 0])


@dataclasses.dataclass(frozen=True)
class Writer(Bandit):
  """Writes words by the same table as codes."""

  @property
  def text_vocabulary(self):
    return self.image_vocabulary


def test_the_loss_of_titles_and_codes_by_hand():
  model = Writer(image_tokens=2, codebook_size=3)
  # Two prompts, of three tokens of a title and two codes: [P, 1, 5, 3].
  hidden = jax.random.normal(jax.random.key(0), (2, 1, 5, 3))
  tokens = jnp.asarray([[[1, 2, 0]], [[2, 0, 1]]])
  codes = jnp.asarray([[2, 0], [2, 0]])
  # The first ends after its word, the second is cut off.
  words = jnp.asarray([[[True, False, False]], [[True, True, True]]])
  title = Title(tokens=tokens, words=words)
  options = sft.SFTOptions(
    seed=0,
    microbatches=1,
    condition_dropout=0.0,
    image_weight=0.7,
    title_weight=0.2,
  )
  counts = jnp.asarray([0.5, 1.5])
  loss, metrics = sft.item_loss(
    model, {}, hidden, codes, title, counts, options
  )
  losses = -jax.nn.log_softmax(hidden)[:, 0]  # [P, 5, 3]
  of_title = (
    0.5 * (losses[0, 0, 1] + losses[0, 1, 2]) / 2
    + 1.5 * (losses[1, 0, 2] + losses[1, 1, 0] + losses[1, 2, 1]) / 3
  ) / 2
  of_image = (losses[:, 3, 2] + losses[:, 4, 0]).mean() / 2
  right = jnp.argmax(hidden, -1)[:, 0, :3] == tokens[:, 0]  # [P, 3]
  accuracy = (0.5 * right[0, :2].mean() + 1.5 * right[1].mean()) / 2
  np.testing.assert_allclose(loss, 0.7 * of_image + 0.2 * of_title, rtol=1e-6)
  np.testing.assert_allclose(metrics["image_loss"], of_image, rtol=1e-6)
  np.testing.assert_allclose(metrics["title_loss"], of_title, rtol=1e-6)
  np.testing.assert_allclose(metrics["title_accuracy"], accuracy, rtol=1e-6)
  assert metrics["title_cut"] == 0.5


def test_the_loss_of_codes_by_hand():
  """Of a table of logits: those of a code are not those of its neighbours."""
  model = Bandit(image_tokens=3, codebook_size=3)
  logits = jnp.asarray([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 1.0, 5.0]]])
  codes = jnp.asarray([[2, 0, 0]])  # the last is not the likeliest
  loss, metrics = sft.code_loss(model, {}, logits[:, None], codes)
  expected = -jax.nn.log_softmax(logits)[0, [0, 1, 2], [2, 0, 0]].mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(metrics["code_accuracy"], 2 / 3, rtol=1e-6)


def test_dropped_prompts_are_embedded_without_their_condition():
  model, batch = Bandit(), bandit_batch(3)
  params = model.init(jax.random.key(0), 4)
  found, mask = sft.embed_with_dropout(
    model, params, batch.prompt, jnp.asarray([False, True, False])
  )
  assert mask.all()
  table = params["table"]["embedding"]
  np.testing.assert_array_equal(found[:, 0], table[np.asarray([1, 0, 3])])
