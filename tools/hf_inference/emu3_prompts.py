"""Prompts of Emu3: tokenizer, token ids and pixels, as genrec_jax makes them.

Images are read and generated at the sizes of config.json, as an export of
genrec_jax writes them: transformers' own processor would enlarge them.
"""

from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers

MODEL = "Emu3ForConditionalGeneration"
SYSTEM = "You are a helpful assistant."
SIZES = {"image_size": 256, "read_size": 128}  # where config.json has none
# Names in files -> those of the modules.
RENAMED = (
  ("text_model.lm_head.", "lm_head."),
  ("text_model.model.", "model.text_model."),
  ("vqmodel.", "model.vqmodel."),
)


@dataclasses.dataclass
class Processor:
  """Prompts and pixels, as genrec_jax makes them."""

  tokenizer: Any
  ids: dict[str, int]  # of special tokens
  image_size: int
  read_size: int
  side: int  # pixels of a code
  mean: list[float]
  std: list[float]
  chat_template: str | None

  def begin(self, size: int) -> list[int]:
    """Returns the tokens that begin an image of `size` pixels a side."""
    codes = size // self.side
    # In words, rows first: the size is text to the model.
    text = self.tokenizer.encode(f"{codes}*{codes}", add_special_tokens=False)
    return [self.ids["boi"], *text, self.ids["wrapper"]]

  @property
  def prompt_tokens(self) -> int:
    """Tokens of one image in a prompt."""
    codes = self.read_size // self.side
    # Each row of codes has an end; behind all are frame's and image's.
    return len(self.begin(self.read_size)) + codes * (codes + 1) + 2

  @property
  def answer_tokens(self) -> int:
    """Tokens of one generated image."""
    codes = self.image_size // self.side
    # With the ends of rows, which the cache holds, too.
    return codes * (codes + 1)

  def decode(self, tokens: Any, **options: Any) -> str:
    """Returns the text of tokens."""
    return self.tokenizer.decode(tokens, **options)


def load_processor(folder: Path, config: Any) -> Processor:
  """Reads the settings of a folder in HF format.

  Raises:
    ValueError: its files differ about a token, or lack one.
  """
  # Not the Auto class of processors: it would enlarge the images.
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  named = {
    # Names that the tokenizer has; else those of the published files.
    "boi": getattr(tokenizer, "boi_token", None) or "<|image start|>",
    "eoi": getattr(tokenizer, "eoi_token", None) or "<|image end|>",
    "wrapper": getattr(tokenizer, "image_wrapper_token", None)
    or "<|image token|>",
    "frame_end": getattr(tokenizer, "eof_token", None) or "<|extra_201|>",
    "image": getattr(tokenizer, "image_token", None) or "<image>",
    "row_end": "<|extra_200|>",
  }
  # Token -> id by either; they must agree, as both are used.
  known, vocabulary = tokenizer.get_vocab(), config.vocabulary_map or {}
  for token in named.values():
    if token not in known:
      raise ValueError(f"the tokenizer has no {token}")
  # Code ids come from the map, texts' from the tokenizer.
  wrong = [name for name in vocabulary if known.get(name) != vocabulary[name]]
  if wrong or not vocabulary:
    raise ValueError(
      f"vocabulary_map of config.json is not the tokenizer's ({wrong[:1]})"
    )
  # Newer files hold it within; older ones have one for images alone.
  settings = read(folder, "processor_config.json").get("image_processor")
  settings = settings or read(folder, "preprocessor_config.json")
  mean = [0.48145466, 0.4578275, 0.40821073]  # as transformers' own
  std = [0.26862954, 0.26130258, 0.27577711]
  # Three places, by the version that wrote the folder.
  chat = folder / "chat_template.jinja"
  written = read(folder, "config.json")
  return Processor(
    tokenizer=tokenizer,
    ids={name: known[token] for name, token in named.items()},
    side=2 ** (len(config.vq_config.channel_multiplier) - 1),
    mean=settings.get("image_mean") or mean,
    std=settings.get("image_std") or std,
    chat_template=chat.read_text()
    if chat.exists()
    else read(folder, "chat_template.json").get("chat_template")
    or tokenizer.chat_template,
    **{name: written.get(name) or size for name, size in SIZES.items()},
  )


def read(folder: Path, name: str) -> dict[str, Any]:
  """Returns the JSON object of a file, {} where there is none."""
  path = folder / name
  return json.loads(path.read_text()) if path.exists() else {}


def image_prompt(
  processor: Processor,
  titles: Sequence[str],
  images: Sequence[PIL.Image.Image],
  instruction: str,
) -> dict[str, Any]:
  """Returns the prompt of an image after a history; as `prompts.image_prompt`.

  Pixel values are in [-1, 1], as Janus's, whatever the model subtracts.
  """
  text = plain(processor, instruction)
  # Without a history the prompt is the text as it is, as in training.
  if titles:
    items = "".join(f"{plain(processor, title)}<image>\n" for title in titles)
    text = f"{SYSTEM} USER: {items}{text} ASSISTANT:"
  inputs = encoded(processor, text, images)
  # The model goes on with the codes of the first row.
  begin = torch.tensor([processor.begin(processor.image_size)])
  inputs["input_ids"] = torch.cat([inputs["input_ids"], begin], 1)
  return inputs


def question_prompt(
  processor: Processor,
  titles: Sequence[str],
  images: Sequence[PIL.Image.Image],
  question: str,
) -> dict[str, Any]:
  """Returns the prompt of an answer in words; as `prompts.question_prompt`.

  Raises:
    ValueError: the checkpoint has no chat template.
  """
  if processor.chat_template is None:
    raise ValueError(
      "this checkpoint has no chat template, so it was made to generate images"
      " and not to answer, as Emu3-Gen is: give one that answers, such as"
      " BAAI/Emu3-Chat-hf"
    )
  parts: list[dict[str, str]] = []
  for title in titles:
    # An untitled item is its image alone.
    if title:
      parts.append({"type": "text", "text": plain(processor, title)})
    parts.append({"type": "image"})
  parts.append({"type": "text", "text": plain(processor, question)})
  text = processor.tokenizer.apply_chat_template(
    [
      {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
      {"role": "user", "content": parts},
    ],
    chat_template=processor.chat_template,
    add_generation_prompt=True,
    tokenize=False,
  )
  # `encoded` puts it first; twice would be another prompt.
  bos = processor.tokenizer.bos_token
  return encoded(processor, text.removeprefix(bos), images)


def encoded(
  processor: Processor, text: str, images: Sequence[PIL.Image.Image]
) -> dict[str, Any]:
  """Returns the inputs of a text and its images, with one BOS before them."""
  codes, ids = processor.read_size // processor.side, processor.ids
  # What stands in a prompt for each image, placeholders for its codes.
  image = [
    *processor.begin(processor.read_size),
    *[ids["image"]] * (codes * (codes + 1)),
    ids["frame_end"],
    ids["eoi"],
  ]
  tokens = [processor.tokenizer.bos_token_id]
  for token in processor.tokenizer.encode(text, add_special_tokens=False):
    # One placeholder of the text for each image, in order.
    tokens += image if token == ids["image"] else [token]
  inputs: dict[str, Any] = {"input_ids": torch.tensor([tokens])}
  if images:
    # [N, S, S, 3] uint8; below [N, 3, S, S] in [-1, 1].
    seen = np.stack([square(image, processor.read_size) for image in images])
    pixels = seen.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    inputs["pixel_values"] = torch.tensor(pixels)
  return inputs


def square(image: PIL.Image.Image, size: int) -> np.ndarray:
  """Returns the centre square of an image, uint8 [size, size, 3]."""
  width, height = image.size
  shorter = min(width, height)
  # Fractions of pixels are resampled, as in genrec_jax.
  left, top = (width - shorter) / 2, (height - shorter) / 2
  box = (left, top, left + shorter, top + shorter)
  bicubic = PIL.Image.Resampling.BICUBIC
  return np.asarray(image.resize((size, size), bicubic, box=box))


def plain(processor: Processor, text: str) -> str:
  """Takes out special tokens spelt out in a text: they would act as such."""
  for token in processor.tokenizer.get_added_vocab() if "<" in text else ():
    text = text.replace(token, " ")
  return text
