"""Emu3: images after a user's history, with a loop of its own, and answers.

`Emu3ForConditionalGeneration.generate` takes no images where one is generated,
and leaves what an image is made of to a function that counts from the first
image of the prompt.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .emu3_prompts import Processor
from .items import Writer, write_items
from .sampling import Sampling, new_cache, to_uint8


def normalisation(processor: Processor) -> list[torch.Tensor]:
  """Returns mean and deviation of pixels, [1, 3, 1, 1] each."""
  both = processor.mean, processor.std
  return [torch.tensor(values).reshape(1, 3, 1, 1) for values in both]


def seen_by_model(
  model: Any, processor: Processor, pixel_values: torch.Tensor
) -> dict[str, torch.Tensor]:
  """Returns pixels in [-1, 1] as arguments of transformers' model."""
  mean, std = normalisation(processor)
  # From [-1, 1] to [0, 1], and from there to the model's own.
  pixels = (pixel_values / 2 + 0.5 - mean) / std
  sizes = torch.tensor([pixels.shape[2:]] * len(pixels))
  return {
    "pixel_values": pixels.to(model.device),
    "image_sizes": sizes.to(model.device),
  }


@torch.no_grad()
def sample_codes(
  model: Any,
  input_ids: torch.Tensor,
  pixel_values: torch.Tensor | None = None,
  *,
  processor: Processor,
  num: int = 4,
  **how: Any,
) -> torch.Tensor:
  """Samples images of one prompt; as `sampling.sample_codes`."""
  options = Sampling(**how)
  prompts = [embedded(model, processor, input_ids, pixel_values)]
  if options.guidance != 1:  # the same begin behind nothing
    begin = processor.begin(processor.image_size)
    nothing = [[processor.tokenizer.bos_token_id, *begin]]
    prompts.append(embedded(model, processor, torch.tensor(nothing)))
  generator = options.generator(model)
  return decode_codes(model, processor, prompts, num, options, generator)


@torch.no_grad()
def sample_items(
  model: Any,
  input_ids: torch.Tensor,
  pixel_values: torch.Tensor | None = None,
  *,
  processor: Processor,
  max_tokens: int = 32,
  num: int = 4,
  **how: Any,
) -> tuple[list[list[int]], torch.Tensor]:
  """Samples titles with images of one prompt; as `items.sample_items`."""
  options = Sampling(**how)
  begin = torch.tensor([processor.begin(processor.image_size)])  # [1, n]
  begin = begin.to(model.device)
  bos = begin.new_tensor([[processor.tokenizer.bos_token_id]])
  # The begin comes after the title, and is none of the prompt.
  ids = input_ids[:, : input_ids.shape[1] - begin.shape[1]]
  silent = torch.tensor(never(model, processor), device=model.device)
  writer = Writer(
    language=model.model.text_model,
    embed=model.get_input_embeddings(),
    logits=lambda hidden: (
      model.lm_head(hidden).float().index_fill(-1, silent, -torch.inf)
    ),
    ends=frozenset({processor.ids["boi"], *ends(model)}),
    codes=lambda prompts, options, generator: decode_codes(
      model, processor, prompts, 1, options, generator
    ),
  )
  return write_items(
    writer,
    embedded(model, processor, ids, pixel_values),
    begin,
    torch.cat([bos, begin], 1),
    max_tokens=max_tokens,
    num=num,
    options=options,
    generator=options.generator(model),
  )


def embedded(
  model: Any,
  processor: Processor,
  input_ids: torch.Tensor,
  pixel_values: torch.Tensor | None = None,
) -> torch.Tensor:
  """Returns the embeddings [1, T, D] of a prompt, its images as their codes."""
  ids = input_ids.to(model.device)
  if pixel_values is not None:
    seen = seen_by_model(model, processor, pixel_values)
    # Codes as tokens, with the ends of rows: [all of them].
    tokens = model.model.get_image_tokens(**seen).to(ids.device, ids.dtype)
    ids = ids.masked_scatter(ids == processor.ids["image"], tokens)
  return model.get_input_embeddings()(ids)


def decode_codes(
  model: Any,
  processor: Processor,
  prompts: Sequence[torch.Tensor],
  num: int,
  options: Sampling,
  generator: torch.Generator,
) -> torch.Tensor:
  """Samples the codes of images of one prompt.

  Args:
    model: from `load`.
    processor: the same.
    prompts: embeddings [1, T, D] that end with the begin of an image: the
      prompt and, where guided, the unconditional one.
    num: how many images.
    options: how to sample.
    generator: see `Sampling.choose`.

  Returns:
    Codes [num, I].
  """
  # Branches differ in length: each has a cache, which its samples go on from.
  language, caches = model.model.text_model, []
  hidden = []
  for prompt in prompts:
    cached = new_cache(language)
    out = language(inputs_embeds=prompt, use_cache=True, **cached)
    # The prompt is run once, and its keys are repeated for samples.
    for cache in cached.values():
      cache.batch_repeat_interleave(num)
    caches.append(cached)
    hidden.append(out.last_hidden_state[:, -1].repeat_interleave(num, 0))
  embed = model.get_input_embeddings()

  def append(tokens: torch.Tensor) -> list[torch.Tensor]:
    """Reads tokens [num]; returns the states of each branch."""
    return [
      language(
        inputs_embeds=embed(tokens[:, None]), use_cache=True, **cached
      ).last_hidden_state[:, -1]
      for cached in caches
    ]

  # [C], not always one after another in the vocabulary.
  code_ids = code_tokens(model)
  side = processor.image_size // processor.side
  row_end = code_ids.new_full((num,), processor.ids["row_end"])
  codes: list[torch.Tensor] = []
  while True:
    # Codes alone can follow: [num, C] of each branch.
    each = [model.lm_head(h).float()[..., code_ids] for h in hidden]
    codes.append(options.choose(each, generator))
    if len(codes) == side * side:
      return torch.stack(codes, -1)
    hidden = append(code_ids[codes[-1]])
    if len(codes) % side == 0:
      # It is no choice: the model is told that the row is over.
      hidden = append(row_end)


def code_tokens(model: Any) -> torch.Tensor:
  """Returns the token of each code, [C]."""
  # transformers' own reading of the vocabulary map.
  mapping = model.vocabulary_mapping.img2bpe
  tokens = [mapping[code] for code in range(len(mapping))]
  return torch.tensor(tokens, device=model.device)


def ends(model: Any) -> list[int]:
  """Returns the tokens that end an answer in words."""
  found = model.generation_config.eos_token_id
  return found if isinstance(found, list) else [found]


def never(model: Any, processor: Processor) -> list[int]:
  """Returns the tokens that no text holds.

  Of special ones it may hold its end, and the begin of an image.
  """
  own = [token for name, token in processor.ids.items() if name != "boi"]
  own += [processor.tokenizer.bos_token_id, processor.tokenizer.pad_token_id]
  own = [token for token in own if token not in ends(model)]
  return [*code_tokens(model).tolist(), *own]


def answer(
  model: Any, inputs: Any, processor: Processor, **options: Any
) -> torch.Tensor:
  """Answers in words, by transformers' own `generate`: token ids [n]."""
  ids = inputs["input_ids"].to(model.device)
  seen = {}
  if "pixel_values" in inputs:
    seen = seen_by_model(model, processor, inputs["pixel_values"])
  # Words need no loop of ours: images in a prompt are read by it.
  found = model.generate(
    input_ids=ids,
    attention_mask=torch.ones_like(ids),
    suppress_tokens=never(model, processor),
    guidance_scale=None,  # the checkpoint's is of images
    **seen,
    **options,
  )
  # What was generated, without the prompt.
  return found[0, ids.shape[1] :]


@torch.no_grad()
def decode_images(
  model: Any, codes: torch.Tensor, processor: Processor
) -> np.ndarray:
  """Decodes codes [num, I] to images, uint8 [num, S, S, 3]."""
  side = processor.image_size // processor.side
  mean, std = normalisation(processor)
  pixels = torch.cat(
    [
      model.model.vqmodel.decode(one.reshape(1, side, side)).cpu().float()
      for one in codes
    ]
  )
  return to_uint8(((pixels * std + mean) * 2 - 1).permute(0, 2, 3, 1))
