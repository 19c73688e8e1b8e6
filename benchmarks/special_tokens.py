"""Janus's special tokens, and their ids in the random models."""

TOKENS = {
  "bos_token": "<｜begin▁of▁sentence｜>",
  "eos_token": "<｜end▁of▁sentence｜>",
  "pad_token": "<｜▁pad▁｜>",
  "image_token": "<image_placeholder>",
  "boi_token": "<begin_of_image>",
  "eoi_token": "<end_of_image>",
}
BOS, EOS, PAD, IMAGE, BOI, EOI = range(6)
