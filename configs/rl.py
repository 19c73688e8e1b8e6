r"""Online RL: CLIP-based rewards on generated images, one jitted step.

The bundled tiny model on the synthetic world, minutes on two cores; then the
same in a few steps, to see that all parts work:

    python main.py --config=configs/rl.py
    python main.py --config=configs/rl.py:debug

The second family on the same world, in minutes, too:

    python main.py --config=configs/rl.py:emu3_tiny

A real model (or janus_pro_7b, or emu3) on prepared data, on accelerators:

    python main.py --config=configs/rl.py:janus_pro_1b \
        --config.model.checkpoint=runs/sft_janus_pro_1b \
        --config.clip.checkpoint=DIR --config.data.path=DIR

Values not set here are those of configs/common.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
  config = common.training("rl", variant)
  # Trains the generation path only; the understanding path (vision, aligner)
  # stays frozen: a reward on images should not change how histories are read.
  # Of Emu3, whose one path does both, it may.
  config.model.trainable = common.trainable(variant)

  # A section for each reward, with its weight, 0 for one that is left out, and
  # its options; genrec_jax/rewards, docs/rewards.md.
  config.rewards = ConfigDict()
  # Besides CLIP: folders, hub or bundled names of CLIP, SigLIP or DINOv2, which
  # share the weights of text, history, future and diversity with it.
  config.rewards.encoders = ()
  # Weights that change: (reward, step, factor of its weight), ..., such as
  # (('copy', 0, 0.0), ('copy', 40, 1.0)), straight lines between.
  config.rewards.schedule = ()
  config.rewards.text = ConfigDict()
  config.rewards.text.weight = 0.5  # one title: a noisy sign of the want
  config.rewards.history = ConfigDict()
  config.rewards.history.weight = 0.5  # helps early; alone it is won by copying
  config.rewards.history.pool = "recency"  # mean | max | recency; wants drift
  config.rewards.history.recency_decay = 0.8  # weight per newer item
  config.rewards.future = ConfigDict()
  config.rewards.future.weight = 1.0  # the aim itself
  config.rewards.future.pool = "mean"  # mean | max | first; mean: least noise
  config.rewards.copy = ConfigDict()
  config.rewards.copy.weight = 1.0  # against what history alone would reward
  config.rewards.copy.threshold = common.copy_threshold(variant)
  config.rewards.diversity = ConfigDict()
  config.rewards.diversity.weight = 0.0  # where samples grow too much alike
  config.rewards.quality = ConfigDict()
  config.rewards.quality.weight = 0.0  # of people's taste, where there is one:
  config.rewards.quality.checkpoint = ""  # such as yuvalkirstain/PickScore_v1
  # Of the title that an answer begins with, model.answer = title_image.
  config.rewards.consistency = ConfigDict()
  config.rewards.consistency.weight = 0.0  # CLIP's cosine, title and image
  config.rewards.title = ConfigDict()
  config.rewards.title.weight = 0.0  # with the real next title
  config.rewards.eyes = ConfigDict()
  config.rewards.eyes.weight = 0.0  # log p(title | image) by the model itself
  config.rewards.eyes.question = "Describe the image."
  config.rewards.external = ConfigDict()
  config.rewards.external.weight = 0.0  # a function of yours, on the host
  config.rewards.external.function = ""  # module:function
  config.rewards.external.seconds = 60.0  # a call may take; a large model's
  config.rewards.external.threads = 1  # more where it waits for a service

  config.rl = ConfigDict()
  # score | pathwise | both: what of the rewards the policy learns by, whole
  # images, their gradients through the image, or a mixture;
  # docs/estimators.md says what each is good for.
  config.rl.estimator = "score"
  config.rl.advantage = "grpo"  # grpo | dr_grpo | rloo | reinforce
  # group | batch | none: the unit of each reward, as their spreads differ;
  # genrec_jax/objectives/advantages.py.
  config.rl.normalise = "group"
  config.rl.scoring = "guided"  # guided | conditional; what was sampled from
  config.rl.stop_unconditional_gradient = False  # the true gradient
  config.rl.inner_epochs = 1  # updates on one rollout; 1 is on-policy
  # Truncated importance weights for the sampler's own rounding: codes count by
  # their probability in training over that in sampling, up to this; 2 is usual.
  config.rl.sampler_weight_cap = 0.0  # 0: off; the measured mismatch is small
  # compute | int8_weights | int8, which is of keys and values as well: what
  # decoding reads; int8 is half of it, and needs a cap above; docs/scaling.md.
  config.rl.rollout_type = "compute"
  # scored | branches; a drift of both branches can leave the guided KL at 0,
  # watch kl_conditional.
  config.rl.kl_of = "scored"
  # Average of the weights per step, which is evaluated and exported; 0.99 is
  # usual for runs of some hundred steps.
  config.rl.ema_decay = 0.0  # off: the first run is short
  config.rl.reset_reference_every = 0  # steps; 0: where training began

  # Of the estimators other than 'score'; genrec_jax/objectives/pathwise.py.
  config.pathwise = ConfigDict()
  config.pathwise.share = 0.5  # of both: the pathwise part of the gradient
  # expectation | second_order | gumbel; second_order has the least bias.
  config.pathwise.relaxation = "second_order"
  config.pathwise.temperature = 1.0  # of gumbel alone; its usual start
  config.pathwise.normalise = "batch"  # group would amplify groups of likes

  config.objective = ConfigDict()
  config.objective.ratio = "token"  # token | sequence (GSPO)
  config.objective.clip_low = 0.2  # PPO's usual
  config.objective.clip_high = 0.28  # DAPO's: lets rare codes grow
  config.objective.kl = "k3"  # k2 | k3 | k3_straight_through
  config.objective.kl_weight = 0.05  # weaker ones let samples grow alike
  # Its weight over steps: (step, factor of it), ..., such as
  # ((0, 1.0), (100, 0.1)), straight lines between.
  config.objective.kl_schedule = ()
  config.objective.aggregation = "token"  # token | sequence; lengths are equal
  # A bonus for prompts whose codes have less entropy than the target, in nats.
  config.objective.entropy_weight = 0.0  # off: the KL holds it, if loosely
  config.objective.entropy_target = 1.0  # watch `entropy` for one's own
  # Of answers with a title: of the mean over an image's codes, and over a
  # title's tokens. Both parts learn from the same advantages.
  config.objective.image_weight = 1.0
  config.objective.title_weight = 1.0  # few tokens, of which each counts more

  # The table's first row; '' for none, as the tiny Emu3 has.
  config.eval.base = "" if variant == "emu3_tiny" else "tiny_base"
  config.eval.samples = 4  # images per user, as many as in other evaluations

  if variant in common.MODELS:
    config.sample.num_samples = 8  # the group that a reward is compared within
    config.objective.kl_weight = 0.01  # a usual start for large models
    config.optim.lr = 1e-6  # full fine-tuning by policy gradient
    config.optim.warmup_steps = 10  # until Adam's moments mean something
    config.optim.decay_steps = 0  # none: runs are prolonged as rewards allow
    config.train.steps = 1000  # 512,000 images; watch eval for the end
    config.train.log_every = 1  # rewards are noisy; every step helps the curve
    config.train.eval_every = 100  # ten points on the curve
    config.train.checkpoint_every = 100  # a tenth of the run at risk
    config.eval.base = ""  # name the model before SFT to have its row
    config.eval.users_during = 128
    return config
  config.optim.lr = 3e-4  # below SFT's: rewards are noisier than labels
  config.optim.warmup_steps = 10  # until Adam's moments mean something
  config.optim.decay_steps = 120  # as train.steps: ends quiet, not noisy
  if variant != "debug":
    # Tuned to the tiny world, whose wants SFT knows; docs/results.md has what
    # was tried. History at 0.5 costs .03 of diversity, for no more wants shown.
    config.rewards.history.weight = 0.0
    # At 4 copies go from .15 to .10, and wants shown from .83 to .74: what an
    # item copies, it meets the wants with.
    config.rewards.copy.weight = 0.3
    config.objective.kl_weight = 0.07  # .05 costs .04 of diversity more than .1
    config.sample.num_samples = 8  # the group that a reward is compared within
    config.train.steps = 120  # minutes on two cores
    config.train.log_every = 1  # rewards are noisy; every step helps the curve
    config.train.eval_every = 60  # three points on the held-out curve
    config.train.checkpoint_every = 20  # what a kill may cost, half a minute
    config.eval.users = 1024  # the fewest that hold RL above copying: +-0.011
  return config
