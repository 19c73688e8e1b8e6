"""Janus and Emu3 by torch and transformers alone: images after a history.

Transformers' own `generate` makes images from text only. Here prompts may hold
images too: the user's history, oldest first, each behind its title. Functions
of this module are Janus's; those of Emu3 are in `emu3`.

Copy this folder, with tools/infer_hf.py or without: it needs nothing else of
the project that it comes from, and so repeats some of genrec_jax. tests/tools
hold both to the same prompts, pixels, codes and refusals.
"""

from .checkpoint import load
from .images import open_image, open_images
from .items import sample_items
from .prompts import image_prompt, question_prompt
from .sampling import Sampling, answer, decode_images, sample_codes

__all__ = [
  "Sampling",
  "answer",
  "decode_images",
  "image_prompt",
  "load",
  "open_image",
  "open_images",
  "question_prompt",
  "sample_codes",
  "sample_items",
]
