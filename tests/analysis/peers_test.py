"""The same step, a prompt repeated for its samples: same numbers, more work."""

import jax
import numpy as np

from configs import rl as rl_config
from genrec_jax import sampling
from genrec_jax.analysis import abstract_step, hlo, hlo_cost, peers
from genrec_jax.models import janus
from genrec_jax.sampling import Sampling
from genrec_jax.testing import ANSWERS, FAMILIES, tiny_clip, tiny_janus
from genrec_jax.train.plan import make_plan
from tests.rounding import score_bound


def plan(config):
  return make_plan(
    config,
    model=tiny_janus(),
    rules=janus.RULES,
    clip=tiny_clip(),
    devices=jax.devices()[:1],
  )


def test_copies_of_a_prompt_change_no_number():
  model, titles = FAMILIES["emu3"].model, ANSWERS["title_image"]
  config = rl_config.get_config("debug")
  config.data.history_length, config.data.batch_size = 2, 2
  shapes = abstract_step.batch(config, model, tiny_clip(), 4).prompt
  rng = np.random.default_rng(0)
  prompt = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  ids = rng.integers(5, 9, shapes.ids.shape).astype(np.int32)
  prompt = prompt.replace(ids=ids, mask=np.ones_like(ids, bool))
  prompt.mask[1, :5] = False
  params = model.init(jax.random.key(0))
  options = Sampling(num_samples=3, guidance=2.0)

  def run(model):
    def both(params):
      rollout = sampling.sample_items(
        model, params, prompt, jax.random.key(1), options, titles
      )
      scores = sampling.score_images(
        model, params, prompt, rollout.codes, options, title=rollout.title
      )
      return rollout, scores.logprobs

    return jax.jit(both)(params)

  expected, found = run(model), run(peers.Repeated(model, 3))
  np.testing.assert_array_equal(found[0].codes, expected[0].codes)
  bound = score_bound(expected[1], options.guidance)
  np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=bound)


def test_the_step_of_copies_computes_more():
  config = rl_config.get_config("debug")
  config.data.history_length = 2

  def flops(plan):
    args = abstract_step.arguments(config, plan, 4)
    compiled = abstract_step.lower(config, plan, args).compile()
    return hlo_cost.flops(hlo.parse(compiled.as_text()))

  ours = plan(config)
  copies = peers.Repeated(ours.model, config.sample.num_samples)
  assert flops(ours._replace(model=copies)) > 1.1 * flops(ours)
