"""Prompts: token ids and pixels of an instruction or a question."""

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch

INSTRUCTION = "Draw the next item that this user will like."
QUESTION = "Describe the image."


def image_prompt(
  processor: Any,
  titles: Sequence[str],
  images: Sequence[PIL.Image.Image],
  instruction: str = INSTRUCTION,
) -> Any:
  """Returns the prompt of an image after a history.

  Args:
    processor: from `load`.
    titles: of the images, oldest first; '' where one has none.
    images: from `open_image`; may be none.
    instruction: what to generate.

  Returns:
    input_ids [1, T], ending with begin-of-image, and with images pixel_values
    [n, 3, S, S].
  """
  # Written out, not by the chat template: models are trained on this form.
  items = "".join(
    f"{plain(processor, title)}{processor.image_token}\n" for title in titles
  )
  text = f"<|User|>: {items}{plain(processor, instruction)}\n\n<|Assistant|>:"
  return encoded(processor, text, images, "image")


def question_prompt(
  processor: Any,
  titles: Sequence[str],
  images: Sequence[PIL.Image.Image],
  question: str = QUESTION,
) -> Any:
  """Returns the prompt of an answer in words; arguments as `image_prompt`."""
  parts = []
  for title in titles:
    if title:
      parts.append({"type": "text", "text": plain(processor, title)})
    parts.append({"type": "image"})
  parts.append({"type": "text", "text": plain(processor, question)})
  text = processor.apply_chat_template(
    [{"role": "user", "content": parts}],
    add_generation_prompt=True,
  )
  return encoded(processor, text, images, "text")


def encoded(
  processor: Any, text: str, images: Sequence[PIL.Image.Image], mode: str
) -> Any:
  """Returns the inputs of a text and its images, with one BOS before them.

  As in training: tokenizers differ in whether they add BOS, or an end token, by
  themselves, and chat templates in whether they spell BOS out.
  """
  tokenizer = processor.tokenizer
  inputs = processor(
    text=[text.removeprefix(tokenizer.bos_token)],  # 5.20 takes lists only
    images=list(images) or None,
    generation_mode=mode,
    add_special_tokens=False,
    return_tensors="pt",
  )
  ones = torch.ones_like(inputs["input_ids"][:, :1])  # [1, 1]
  for name, value in (
    ("input_ids", tokenizer.bos_token_id * ones),
    ("attention_mask", ones),
  ):
    inputs[name] = torch.cat([value, inputs[name]], 1)
  return inputs


def plain(processor: Any, text: str) -> str:
  """Takes out special tokens spelt out in a text: they would act as such."""
  for token in processor.tokenizer.get_added_vocab():
    text = text.replace(token, " ")
  return text
