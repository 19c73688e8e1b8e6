"""Bias and variance of gradient estimators, on a model with 256 images.

Four codes out of four make 4^4 images, whose probabilities and rewards are all
known: expectations are sums, over every image, of the gradient that the loss of
a run takes of it. Each code depends on the one before; pixels are a nonlinear
function of all codes' vectors, and embeddings one of all pixels.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax import rewards, sampling
from genrec_jax.core.types import Prompt
from genrec_jax.models.api import Vocabulary
from genrec_jax.objectives.pathwise import Pathwise, Slopes
from genrec_jax.sampling import Sampling
from genrec_jax.targets import Targets
from genrec_jax.train import policy_update, slopes
from genrec_jax.train.policy_update import Experience
from tests.train.options import rl_options

SIZE, LENGTH, WIDTH, SPACE = 4, 4, 3, 5  # C, I, E, E'
CODES = np.asarray([[*itertools.product(range(SIZE), repeat=LENGTH)]], np.int32)
ALL = CODES.shape[1]  # 256


def random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Chain:
  """A generator: a code's logits are those of its place and the code before.

  Attributes:
    memory: how much the code before counts; 0: codes are independent.
  """

  memory: float
  image_tokens: int = LENGTH
  codebook_size: int = SIZE

  @property
  def image_vocabulary(self):
    return Vocabulary(
      size=self.codebook_size,
      embed=None,
      logits=lambda params, hidden: hidden,
      decode_params=lambda params: params,
    )

  def embed(self, params, prompt):
    return params["places"][prompt.ids]  # [P, 1, I C]

  def teacher_forced_hidden(self, params, embeds, mask, codes, title=None):
    places = embeds.reshape(-1, 1, LENGTH, SIZE)
    before = params["before"][codes[..., :-1]]  # [P, G, I - 1, C]
    before = jnp.pad(before, ((0, 0), (0, 0), (1, 0), (0, 0)))
    return places + self.memory * before

  def code_vectors(self, params):
    vectors = random(0, SIZE, WIDTH)
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1)[:, None])

  def decode_vectors(self, params, vectors):
    """Renders three channels in each place, which see the places next to it."""
    around = sum(
      jnp.roll(vectors, shift, -2) @ random(2 + shift, WIDTH, 3)
      for shift in (-1, 0, 1)
    )
    return jax.nn.sigmoid(around)[..., None, :, :]  # [..., 1, I, 3]


def embed(pixels):
  """Maps [..., 1, I, 3] to unit vectors [..., E']."""
  flat = pixels.reshape(*pixels.shape[:-3], -1)
  hidden = jnp.tanh((flat - 0.5) @ random(5, LENGTH * 3, 16))
  found = hidden @ random(6, 16, SPACE)
  return found / jnp.linalg.norm(found, axis=-1, keepdims=True)


PROMPT = Prompt(
  ids=np.zeros((1, 1), np.int32),
  mask=np.ones((1, 1), bool),
  images=np.zeros((1, 0, 1, 1, 3), np.uint8),
)
UNIT = random(7, 1, 4, SPACE)
UNIT /= np.linalg.norm(UNIT, axis=-1, keepdims=True)
MASK = np.ones((1, 2), bool)
TARGETS = Targets(
  text=UNIT[:, 0],
  history=UNIT[:, :2],
  history_mask=MASK,
  future=UNIT[:, 2:],
  future_mask=MASK,
)


def estimator(relaxation, temperature=1.0):
  how = relaxation and Pathwise(
    share=1.0,
    relaxation=relaxation,
    temperature=temperature,
    normalise="none",
  )
  options = rl_options(
    copy_weight=0.0,
    kl_weight=0.0,
    sample=Sampling(),
    advantage="reinforce",
    pathwise=how,
  )
  # Sums over codes: the gradient of the expected reward, not I times less.
  objective = dataclasses.replace(options.objective, aggregation="sequence")
  return dataclasses.replace(options, objective=objective)


ESTIMATORS = {
  "score": estimator(None),
  "expectation": estimator("expectation"),
  "second_order": estimator("second_order"),
  "gumbel": estimator("gumbel"),
}


def _flat(values):
  return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(values)])


def estimates(memory):
  """Returns the true gradient [D], chances [256] and estimates [256, D]."""
  model = Chain(memory)
  params = {
    "places": jnp.asarray(random(8, 1, LENGTH * SIZE)),
    "before": jnp.asarray(random(9, SIZE, SIZE)),
  }
  options = ESTIMATORS["expectation"]
  table = model.code_vectors(params)
  images = {rewards.CLIP: embed(model.decode_vectors(params, table[CODES]))}
  views = {rewards.CLIP: rewards.View(images[rewards.CLIP], TARGETS)}
  raw = rewards.score_views(views, options.rewards)  # name -> [1, 256]
  values = sum(w * raw[name] for name, w in options.weights.items())
  vectors = slopes.code_slopes(
    model,
    params,
    lambda pixels: {rewards.CLIP: embed(pixels)},
    CODES,
    slopes.embed_slopes(views, raw, options.weights, options),
    1,
  )

  def expected(params):
    logprobs = sampling.score_images(
      model, params, PROMPT, CODES, Sampling()
    ).logprobs.sum(-1)  # [1, 256]
    return jnp.sum(jnp.exp(logprobs) * values), jnp.exp(logprobs)[0]

  (mean, chances), truth = jax.value_and_grad(expected, has_aux=True)(params)

  def of_one(options, codes, advantage, vectors, key):
    still = jnp.zeros((1, 1, LENGTH))
    experience = Experience(
      PROMPT,
      codes[None, None],
      still,
      advantage.reshape(1, 1),
      None if not options.pathwise else Slopes(vectors[None, None], key),
    )
    loss = functools.partial(
      policy_update.epoch_loss,
      experience=experience,
      old_logprobs=still,
      ref=None,
      score=policy_update.make_score(model, {}, options),
      epoch=jnp.int32(0),
      options=options,
    )
    return -_flat(jax.grad(loss, has_aux=True)(params)[0])

  keys = jax.random.split(jax.random.key(2), (ALL, 1, 1, LENGTH))
  found = {
    name: jax.jit(jax.vmap(functools.partial(of_one, options)))(
      CODES[0], values[0] - mean, vectors[0], keys
    )
    for name, options in ESTIMATORS.items()
  }
  return jax.tree.map(np.float64, (_flat(truth), chances, found))


@pytest.fixture(scope="module")
def independent():
  return estimates(0.0)


@pytest.fixture(scope="module")
def dependent():
  return estimates(1.0)


def figures(found):
  """Returns by estimator its bias, cosine and deviation over the length."""
  truth, chances, each = found
  length = np.linalg.norm(truth)
  table = {}
  for name, gradients in each.items():
    mean = chances @ gradients  # [D]
    variance = chances @ np.sum((gradients - mean[None]) ** 2, 1)
    table[name] = (
      np.linalg.norm(mean - truth) / length,
      mean @ truth / length / np.linalg.norm(mean),
      np.sqrt(variance) / length,
    )
  return table


@pytest.mark.parametrize("memory", ["independent", "dependent"])
def test_the_score_estimator_has_no_bias(memory, request):
  truth, chances, each = request.getfixturevalue(memory)
  np.testing.assert_allclose(chances.sum(), 1, rtol=1e-5)
  # Neither one image nor all alike.
  assert 8 < np.exp(-chances @ np.log(chances)) < 200
  length = np.linalg.norm(truth)
  # Sums of 256 gradients, ten times as long, which nearly cancel.
  assert np.linalg.norm(chances @ each["score"] - truth) < 1e-4 * length
  # Sampled, as a run samples: within four standard errors, along the gradient.
  sampled = np.random.default_rng(0).choice(
    ALL, 4096, p=chances / chances.sum()
  )
  along = each["score"][sampled] @ truth / length
  assert abs(along.mean() - length) < 4 * along.std() / 64


# Bias and deviation of a single image's estimate over the length of the true
# gradient, and the cosine of its mean with it; as docs/estimators.md says.
MEASURED = {
  "independent": {
    "score": (0.0, 1.0, 3.61),
    "expectation": (0.48, 0.895, 2.10),
    "second_order": (0.33, 0.946, 2.36),
    "gumbel": (0.46, 0.899, 1.74),
  },
  "dependent": {
    "score": (0.0, 1.0, 3.11),
    "expectation": (1.06, 0.519, 1.85),
    "second_order": (0.80, 0.635, 1.68),
    "gumbel": (0.97, 0.478, 1.68),
  },
}


@pytest.mark.parametrize("memory", MEASURED)
def test_pathwise_estimators_are_biased_and_vary_less(memory, request):
  """By as much as is stated; gumbel's own noise is one sample per image."""
  found = figures(request.getfixturevalue(memory))
  for name, expected in MEASURED[memory].items():
    np.testing.assert_allclose(
      found[name], expected, rtol=0.05, atol=0.01, err_msg=name
    )
  # What is left of the second order's bias is what a place cannot see.
  assert found["second_order"][0] < found["expectation"][0]
  assert all(
    found[name][2] < 0.7 * found["score"][2]
    for name in found.keys() - {"score"}
  )
