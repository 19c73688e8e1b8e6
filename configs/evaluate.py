r"""Evaluation of one checkpoint: a table, summary.json and report.html.

The checkpoint is a workdir of ours, an HF-format folder or a bundled name; the
data is the synthetic world:

    python main.py --config=configs/evaluate.py \
        --config.model.checkpoint=runs/rl

A real model (or janus_pro_7b) on prepared data, on accelerators:

    python main.py --config=configs/evaluate.py:janus_pro_1b \
        --config.model.checkpoint=DIR --config.clip.checkpoint=DIR \
        --config.data.path=DIR
"""

from ml_collections import ConfigDict

VARIANTS = ("debug", "janus_pro_1b", "janus_pro_7b")


def get_config(variant: str = "") -> ConfigDict:
  if variant and variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/evaluate.py: expected none or"
      f" one of {', '.join(VARIANTS)}"
    )
  config = ConfigDict()
  config.task = "evaluate"
  config.workdir = "runs/evaluate"
  config.seed = 0  # of sampling, shuffling and the bootstrap

  config.model = ConfigDict()
  # HF-format folder, workdir of ours, or a bundled name.
  config.model.checkpoint = "tiny_sft"
  config.model.dtype = "float32"  # CPUs compute bfloat16 slowly

  config.clip = ConfigDict()
  config.clip.checkpoint = "tiny_clip"  # the judge
  config.clip.dtype = "float32"  # cosines differ in the third digit

  config.data = ConfigDict()
  # Folder of prepared data; '' renders the synthetic world of the keys below.
  config.data.path = ""
  config.data.num_users = 4096  # as in training, so that held-out stays so
  config.data.held_out = 512  # more than evaluation reads, never trained on
  config.data.num_events = 24  # as in training
  config.data.seed = 0  # as in training
  config.data.history_length = 5  # as in training
  config.data.future_horizon = 3  # as in training
  config.data.instruction = (  # after the history; any wording, but one
    "Draw the next item that this user will like."
  )

  config.sample = ConfigDict()
  config.sample.num_samples = 4  # images per user; enough to see diversity
  config.sample.guidance = 2.0  # as in training
  config.sample.temperature = 1.0  # the distribution as trained
  config.sample.top_k = 0  # off, for the same reason
  config.sample.top_p = 1.0  # off, for the same reason

  config.mesh = ConfigDict()
  config.mesh.data = -1  # all devices that `model` leaves
  config.mesh.model = 1  # small layers gain nothing from tensor parallelism

  config.eval = ConfigDict()
  config.eval.users = 256  # held-out; intervals of about +-0.03
  config.eval.batch_size = 32  # users drawn for at once
  config.eval.copy_threshold = 0.98  # CLIP cosine from which it is a copy

  if variant == "debug":  # as little as still goes through every part
    config.workdir = "runs/evaluate_debug"
    config.data.num_users = 64
    config.data.held_out = 16
    config.sample.num_samples = 2
    config.eval.users = 8
    config.eval.batch_size = 8
  elif variant:
    config.workdir = f"runs/evaluate_{variant}"
    config.model.checkpoint = ""  # yours; see the command above
    config.model.dtype = "bfloat16"  # what accelerators multiply fast
    config.clip.checkpoint = ""  # such as openai/clip-vit-large-patch14
    config.sample.guidance = 5.0  # Janus-Pro's own default
    config.eval.copy_threshold = 0.95  # photos of one item differ more
    config.mesh.model = 1 if variant == "janus_pro_1b" else 4  # 7B: 4 shards
    config.eval.users = 1024  # prepared data has users enough
  return config
