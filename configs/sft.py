r"""Supervised fine-tuning: user histories -> codes of the real next item.

The bundled tiny model on the synthetic world, minutes on two cores; then the
same in a few steps, to see that all parts work:

    python main.py --config=configs/sft.py
    python main.py --config=configs/sft.py:debug

A real model (or janus_pro_7b) on prepared data, on accelerators:

    python main.py --config=configs/sft.py:janus_pro_1b \
        --config.model.checkpoint=DIR --config.clip.checkpoint=DIR \
        --config.data.path=DIR
"""

from ml_collections import ConfigDict

VARIANTS = ("debug", "janus_pro_1b", "janus_pro_7b")


def get_config(variant: str = "") -> ConfigDict:
  if variant and variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/sft.py: expected none or one of"
      f" {', '.join(VARIANTS)}"
    )
  config = ConfigDict()
  config.task = "sft"
  config.workdir = "runs/sft"
  config.seed = 0  # of sampling, shuffling and the bootstrap

  config.model = ConfigDict()
  # HF-format folder, workdir of ours, or a bundled name.
  config.model.checkpoint = "tiny_base"
  config.model.dtype = "float32"  # CPUs compute bfloat16 slowly
  config.model.remat = "full"  # on CPUs, too, faster than storing
  # The vision tower and the VQ tokenizer stay as they were pretrained: the
  # first would forget, the second defines what the codes mean.
  config.model.trainable = ("^language/", "^image_head/", "^aligner/")

  config.clip = ConfigDict()
  config.clip.checkpoint = "tiny_clip"  # judges; not trained
  config.clip.dtype = "float32"  # cosines differ in the third digit

  config.data = ConfigDict()
  # Folder of prepared data; '' renders the synthetic world of the keys below.
  config.data.path = ""
  config.data.num_users = 4096  # 60,000 windows, each seen once at most
  config.data.held_out = 512  # more than evaluation reads, never trained on
  config.data.num_events = 24  # several drifts of a want per user
  config.data.seed = 0  # apart from `seed`: runs differ, users stay
  config.data.history_length = 5  # wants drift every dozen events
  config.data.future_horizon = 3  # as many future images as rewards compare
  config.data.batch_size = 32  # prompts a step, over all devices
  config.data.workers = 0  # reading processes; 32 px PNGs decode in place
  config.data.instruction = (  # after the history; any wording, but one
    "Draw the next item that this user will like."
  )

  config.sft = ConfigDict()
  config.sft.condition_dropout = 0.1  # trains guidance's unconditional branch

  config.sample = ConfigDict()  # how evaluation draws
  config.sample.num_samples = 4  # images per user; enough to see diversity
  config.sample.guidance = 2.0  # more makes tiny samples alike
  config.sample.temperature = 1.0  # the distribution as trained
  config.sample.top_k = 0  # off, for the same reason
  config.sample.top_p = 1.0  # off, for the same reason

  config.optim = ConfigDict()
  config.optim.lr = 1.5e-3  # usual for models of some million parameters
  config.optim.b1 = 0.9  # Adam's usual
  config.optim.b2 = 0.95  # forgets faster than 0.999, for short runs
  config.optim.weight_decay = 0.0  # fine-tuning should stay near its start
  config.optim.warmup_steps = 20  # until Adam's moments mean something
  config.optim.decay_steps = 1500  # as train.steps: ends quiet, not noisy
  config.optim.grad_norm = 1.0  # bounds the odd batch

  config.mesh = ConfigDict()
  config.mesh.data = -1  # all devices that `model` leaves
  config.mesh.model = 1  # small layers gain nothing from tensor parallelism

  config.train = ConfigDict()
  config.train.steps = 1500  # ten minutes on two cores
  config.train.log_every = 5  # rows enough for a smooth curve
  config.train.eval_every = 300  # six points on the held-out curve
  config.train.checkpoint_every = 100  # what a kill may cost, half a minute
  config.train.keep = 2  # the newest, and one before in case

  config.eval = ConfigDict()
  config.eval.users = 256  # held-out; intervals of about +-0.03
  config.eval.users_during = 64  # in mid-run evaluations, to be quick
  config.eval.batch_size = 32  # users drawn for at once
  config.eval.copy_threshold = 0.98  # CLIP cosine from which it is a copy

  if variant == "debug":  # as little as still goes through every part
    config.workdir = "runs/sft_debug"
    config.data.num_users = 64
    config.data.held_out = 16
    config.data.batch_size = 8
    config.sample.num_samples = 2
    config.train.steps = 4
    config.train.log_every = 1
    config.train.eval_every = 2
    config.train.checkpoint_every = 2
    config.eval.users = 8
    config.eval.users_during = 8
    config.eval.batch_size = 8
  elif variant:
    config.workdir = f"runs/sft_{variant}"
    config.model.checkpoint = ""  # yours; see the command above
    config.model.dtype = "bfloat16"  # what accelerators multiply fast
    config.clip.checkpoint = ""  # such as openai/clip-vit-large-patch14
    config.data.batch_size = 64  # divisible by small pods
    config.data.workers = 8  # photos take time to decode
    config.sample.guidance = 5.0  # Janus-Pro's own default
    config.optim.lr = 1e-5  # full fine-tuning of a pretrained model
    config.optim.warmup_steps = 100  # longer: moments start from nothing
    config.mesh.model = 1 if variant == "janus_pro_1b" else 4  # 7B: 4 shards
    config.train.steps = 5000  # 320,000 windows; watch eval for the end
    config.train.log_every = 10  # 500 rows
    config.train.eval_every = 500  # ten points on the curve
    config.train.checkpoint_every = 500  # a tenth of the run at risk
    config.eval.users = 1024  # prepared data has users enough
  return config
