r"""Online RL: rewards from the images drawn, all in one jitted step.

The bundled tiny model on the synthetic world, minutes on two cores; then the
same in a few steps, to see that all parts work:

    python main.py --config=configs/rl.py
    python main.py --config=configs/rl.py:debug

A real model (or janus_pro_7b) on prepared data, on accelerators:

    python main.py --config=configs/rl.py:janus_pro_1b \
        --config.model.checkpoint=runs/sft_janus_pro_1b \
        --config.clip.checkpoint=DIR --config.data.path=DIR
"""

from ml_collections import ConfigDict

VARIANTS = ("debug", "janus_pro_1b", "janus_pro_7b")


def get_config(variant: str = "") -> ConfigDict:
  if variant and variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/rl.py: expected none or one of"
      f" {', '.join(VARIANTS)}"
    )
  config = ConfigDict()
  config.task = "rl"
  config.workdir = "runs/rl"
  config.seed = 0  # of sampling, shuffling and the bootstrap

  config.model = ConfigDict()
  # HF-format folder, workdir of ours, or a bundled name; after SFT.
  config.model.checkpoint = "tiny_sft"
  config.model.dtype = "float32"  # CPUs compute bfloat16 slowly
  config.model.remat = "full"  # on CPUs, too, faster than storing
  # What draws. What reads (vision, aligner) is left as SFT left it: a reward
  # on the drawing should not change how histories are seen.
  config.model.trainable = ("^language/", "^image_head/")

  config.clip = ConfigDict()
  config.clip.checkpoint = "tiny_clip"  # the reward model; not trained
  config.clip.dtype = "float32"  # cosines differ in the third digit

  config.data = ConfigDict()
  # Folder of prepared data; '' renders the synthetic world of the keys below.
  config.data.path = ""
  config.data.num_users = 4096  # more than a run's steps visit
  config.data.held_out = 512  # more than evaluation reads, never trained on
  config.data.num_events = 24  # several drifts of a want per user
  config.data.seed = 0  # apart from `seed`: runs differ, users stay
  config.data.history_length = 5  # wants drift every dozen events
  config.data.future_horizon = 3  # less noise than one next item alone
  config.data.batch_size = 16  # prompts a step; times num_samples images
  config.data.workers = 0  # reading processes; 32 px PNGs decode in place
  config.data.instruction = (  # after the history; any wording, but one
    "Draw the next item that this user will like."
  )

  config.sample = ConfigDict()
  config.sample.num_samples = 8  # the group that a reward is compared within
  config.sample.guidance = 2.0  # more makes tiny samples alike
  config.sample.temperature = 1.0  # explores the distribution as trained
  config.sample.top_k = 0  # off: a cut code could never be learned again
  config.sample.top_p = 1.0  # off, for the same reason

  config.reward = ConfigDict()
  config.reward.history_pool = "recency"  # mean | max | recency; wants drift
  config.reward.recency_decay = 0.8  # weight per newer item
  config.reward.future_pool = "mean"  # mean | max | first; mean has least noise
  config.reward.copy_threshold = 0.98  # CLIP cosine from which it is a copy

  config.weights = ConfigDict()
  config.weights.text = 0.5  # one title: a noisy sign of the want
  config.weights.history = 0.5  # helps early; alone it is won by copying
  config.weights.future = 1.0  # the aim itself
  config.weights.copy = 1.0  # against what history alone would reward

  config.rl = ConfigDict()
  config.rl.advantage = "grpo"  # grpo | dr_grpo | rloo | reinforce
  config.rl.normalise = "group"  # group | none; rewards have unlike spreads
  config.rl.scoring = "guided"  # guided | conditional; what was sampled from
  config.rl.stop_unconditional_gradient = False  # the true gradient
  config.rl.inner_epochs = 1  # updates on one rollout; 1 is on-policy

  config.objective = ConfigDict()
  config.objective.ratio = "token"  # token | sequence (GSPO)
  config.objective.clip_low = 0.2  # PPO's usual
  config.objective.clip_high = 0.28  # DAPO's: lets rare codes grow
  config.objective.kl = "k3"  # k2 | k3 | k3_straight_through
  config.objective.kl_weight = 0.1  # weaker ones let samples grow alike
  config.objective.aggregation = "token"  # token | sequence; lengths are equal

  config.optim = ConfigDict()
  config.optim.lr = 3e-4  # below SFT's: rewards are noisier than labels
  config.optim.b1 = 0.9  # Adam's usual
  config.optim.b2 = 0.95  # forgets faster than 0.999, for short runs
  config.optim.weight_decay = 0.0  # the KL term keeps it near its start
  config.optim.warmup_steps = 10  # until Adam's moments mean something
  config.optim.decay_steps = 0  # none: runs are prolonged as rewards allow
  config.optim.grad_norm = 1.0  # bounds the odd batch

  config.mesh = ConfigDict()
  config.mesh.data = -1  # all devices that `model` leaves
  config.mesh.model = 1  # small layers gain nothing from tensor parallelism

  config.train = ConfigDict()
  config.train.steps = 160  # minutes on two cores
  config.train.log_every = 1  # rewards are noisy; every step helps the curve
  config.train.eval_every = 40  # four points on the held-out curve
  config.train.checkpoint_every = 20  # what a kill may cost, half a minute
  config.train.keep = 2  # the newest, and one before in case

  config.eval = ConfigDict()
  config.eval.base = "tiny_base"  # the table's first row; '' for none
  config.eval.users = 512  # held-out; intervals of about +-0.02
  config.eval.users_during = 128  # in mid-run evaluations, to be quick
  config.eval.samples = 2  # images per user; more users tell more than more
  config.eval.batch_size = 32  # users drawn for at once

  if variant == "debug":  # as little as still goes through every part
    config.workdir = "runs/rl_debug"
    config.data.num_users = 64
    config.data.held_out = 16
    config.data.batch_size = 8
    config.sample.num_samples = 2
    config.train.steps = 4
    config.train.eval_every = 2
    config.train.checkpoint_every = 2
    config.eval.users = 8
    config.eval.users_during = 8
    config.eval.samples = 2
    config.eval.batch_size = 8
  elif variant:
    config.workdir = f"runs/rl_{variant}"
    config.model.checkpoint = ""  # yours; see the command above
    config.model.dtype = "bfloat16"  # what accelerators multiply fast
    config.clip.checkpoint = ""  # such as openai/clip-vit-large-patch14
    config.objective.kl_weight = 0.01  # a usual start for large models
    config.data.batch_size = 64  # divisible by small pods
    config.data.workers = 8  # photos take time to decode
    config.sample.guidance = 5.0  # Janus-Pro's own default
    config.reward.copy_threshold = 0.95  # photos of one item differ more
    config.optim.lr = 1e-6  # full fine-tuning by policy gradient
    config.mesh.model = 1 if variant == "janus_pro_1b" else 4  # 7B: 4 shards
    config.train.steps = 1000  # 512,000 images; watch eval for the end
    config.train.eval_every = 100  # ten points on the curve
    config.train.checkpoint_every = 100  # a tenth of the run at risk
    config.eval.base = ""  # name the model before SFT to have its row
    config.eval.users = 1024  # prepared data has users enough
  return config
