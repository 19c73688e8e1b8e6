r"""Evaluation of one checkpoint: a table, summary.json and report.html.

The checkpoint is a workdir of ours, an HF-format folder or a bundled name; the
data is what a workdir was trained on, else the synthetic world:

    python main.py --config=configs/evaluate.py \
        --config.model.checkpoint=runs/rl

Without a checkpoint it is the bundled tiny_sft, with `:emu3_tiny` tiny_emu3.

A real model (or janus_pro_7b, or emu3) on prepared data, on accelerators:

    python main.py --config=configs/evaluate.py:janus_pro_1b \
        --config.model.checkpoint=DIR --config.clip.checkpoint=DIR \
        --config.data.path=DIR

Values not set here are those of configs/common.py, as in training: users held
out there stay held out.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
  config = common.base("evaluate", variant)
  config.eval.copy_threshold = common.copy_threshold(variant)
  return config
