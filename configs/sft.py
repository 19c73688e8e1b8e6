r"""Supervised fine-tuning: user histories -> codes of the real next item.

The bundled tiny model on the synthetic world, minutes on two cores; then the
same in a few steps, to see that all parts work:

    python main.py --config=configs/sft.py
    python main.py --config=configs/sft.py:debug

`configs/sft.py:emu3_tiny` goes on from the bundled tiny Emu3, which has seen
histories already.

A real model (or janus_pro_7b, or emu3) on prepared data, on accelerators:

    python main.py --config=configs/sft.py:janus_pro_1b \
        --config.model.checkpoint=DIR --config.clip.checkpoint=DIR \
        --config.data.path=DIR

Values not set here are those of configs/common.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
  config = common.training("sft", variant)
  # The vision tower and the VQ tokenizer stay frozen: the first would forget,
  # the second defines what the codes mean.
  config.model.trainable = common.trainable(variant)
  if not common.is_emu3(variant):  # which reads images as it writes them
    config.model.trainable += ("^aligner/",)

  config.sft = ConfigDict()
  config.sft.condition_dropout = 0.1  # trains guidance's unconditional branch
  if common.is_emu3(variant):
    config.sft.condition_dropout = 0.05  # its authors' own
  # Of answers with a title: the mean loss of an image's codes, and of a title's
  # tokens, which are fewer and far easier.
  config.sft.image_weight = 1.0
  config.sft.title_weight = 0.3

  config.eval.copy_threshold = common.copy_threshold(variant)

  if variant in common.MODELS:
    config.optim.lr = 1e-5  # full fine-tuning of a pretrained model
    config.optim.warmup_steps = 100  # longer: moments start from nothing
    config.optim.decay_steps = 5000  # as train.steps: ends quiet, not noisy
    config.train.steps = 5000  # 320,000 windows; watch eval for the end
    config.train.log_every = 10  # 500 rows
    config.train.eval_every = 500  # ten points on the curve
    config.train.checkpoint_every = 500  # a tenth of the run at risk
    return config
  if variant != "emu3_tiny":
    config.model.checkpoint = "tiny_base"
  config.optim.lr = 1.5e-3  # usual for models of some million parameters
  config.optim.warmup_steps = 20  # until Adam's moments mean something
  config.optim.decay_steps = 1500  # as train.steps: ends quiet, not noisy
  if variant != "debug":
    config.train.steps = 1500  # ten minutes on two cores
    config.train.log_every = 5  # rows enough for a smooth curve
    config.train.eval_every = 300  # six points on the held-out curve
    config.train.checkpoint_every = 100  # what a kill may cost, half a minute
  if variant == "emu3_tiny":
    # It reads the codes that it generates: a sixth of the windows teaches it.
    config.data.batch_size = 8
    config.optim.decay_steps = 1000
    config.train.steps = 1000
    config.train.eval_every = 250  # five points on the held-out curve
  return config
