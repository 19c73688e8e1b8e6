"""Sampling of images, code by code, and of answers in words."""

from collections.abc import Sequence
import dataclasses
import inspect
from typing import Any

import numpy as np
import torch
import transformers

from .checkpoint import codes_per_image


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are sampled.

  Attributes:
    guidance: w of l = u + w (c - u), from the logits c with and u without the
      prompt (arXiv 2207.12598); 1 leaves u out.
    temperature: divides the logits.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens that together reach this probability.
    greedy: take the likeliest token; all samples are then the same.
    seed: of the sampling.
  """

  guidance: float = 5.0
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  greedy: bool = False
  seed: int = 0

  def generator(self, model: Any) -> torch.Generator:
    """Returns random numbers that the seed fixes, whatever ran before."""
    return torch.Generator(model.device).manual_seed(self.seed)

  def choose(
    self, logits: Sequence[torch.Tensor], generator: torch.Generator
  ) -> torch.Tensor:
    """Returns tokens [num].

    Args:
      logits: [num, C] float32 after the prompt, and, where guided, those of the
        unconditional branch.
      generator: of `generator`.
    """
    guided, *others = logits
    for other in others:  # before any temperature
      guided = other + self.guidance * (guided - other)
    if self.greedy:
      return guided.argmax(-1)
    probs = probabilities(guided, self.temperature, self.top_k, self.top_p)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


@torch.no_grad()
def sample_codes(
  model: Any,
  input_ids: torch.Tensor,
  pixel_values: torch.Tensor | None = None,
  *,
  num: int = 4,
  **how: Any,
) -> torch.Tensor:
  """Samples images of one prompt, with images in it or without.

  Args:
    model: from `load`.
    input_ids: [1, T], see `image_prompt`.
    pixel_values: [n, 3, S, S], see `image_prompt`.
    num: how many images.
    **how: fields of `Sampling`.

  Returns:
    Codes [num, I] for `decode_images`.
  """
  options = Sampling(**how)
  ids = input_ids.to(model.device)
  branches = [embedded(model, ids, pixel_values)]  # [1, T, D] each
  if options.guidance != 1:
    branches.append(embedded(model, unconditional_ids(model, ids)))
  # Of one length: read together.
  return decode_codes(
    model, [torch.cat(branches)], num, options, options.generator(model)
  )


def embedded(
  model: Any, ids: torch.Tensor, pixel_values: torch.Tensor | None = None
) -> torch.Tensor:
  """Returns the embeddings [1, T, D] of a prompt, its images inserted.

  The unconditional branch holds no image.
  """
  embeds = model.get_input_embeddings()(ids)
  if pixel_values is None:
    return embeds
  features = model.model.get_image_features(
    pixel_values.to(model.device, model.dtype), return_dict=True
  ).pooler_output  # [n, I, D]
  slots = (ids == model.config.image_token_id)[..., None]  # [1, T, 1]
  return embeds.masked_scatter(slots, features)


def decode_codes(
  model: Any,
  prompts: Sequence[torch.Tensor],
  num: int,
  options: Sampling,
  generator: torch.Generator,
) -> torch.Tensor:
  """Samples the codes of images of one prompt.

  Args:
    model: from `load`.
    prompts: embeddings [n, T, D] that end with begin-of-image: the prompt and,
      where guided, the unconditional one; one after the other, or together in
      one where both are as long.
    num: how many images.
    options: how to sample.
    generator: see `Sampling.choose`.

  Returns:
    Codes [num, I].
  """
  # The prompt is read once; each sample goes on from a copy of its cache.
  language = model.model.language_model
  caches = [new_cache(language) for _ in prompts]
  states = []
  for prompt, cached in zip(prompts, caches, strict=True):
    out = language(inputs_embeds=prompt, use_cache=True, **cached)
    for cache in cached.values():
      cache.batch_repeat_interleave(num)
    # [n num, D], the samples of a branch one after another.
    states.append(out.last_hidden_state[:, -1].repeat_interleave(num, 0))
  codes: list[torch.Tensor] = []
  while True:
    hidden = torch.cat(states)  # [branches num, D]
    logits = model.model.generation_head(hidden).float()  # [..., C]
    codes.append(options.choose(logits.split(num), generator))
    if len(codes) == codes_per_image(model):
      return torch.stack(codes, -1)
    # Both branches read the code that was sampled from their mixture.
    step = model.prepare_embeddings_for_image_generation(codes[-1][:, None])
    states = [
      language(
        inputs_embeds=torch.cat([step] * len(prompt)), use_cache=True, **cached
      ).last_hidden_state[:, -1]
      for prompt, cached in zip(prompts, caches, strict=True)
    ]


def new_cache(language: Any) -> dict[str, Any]:
  """Returns an empty cache as the argument that takes it.

  Which transformers 5.20 calls past_key_values, and later ones cache.
  """
  known = inspect.signature(language.forward).parameters
  name = "cache" if "cache" in known else "past_key_values"
  return {name: transformers.DynamicCache(config=language.config)}


def unconditional_ids(model: Any, ids: torch.Tensor) -> torch.Tensor:
  """Pads all tokens [P, T] but BOS and a begin-of-image at the end.

  As DeepSeek's generation_inference.py does with prompts without images. (The
  `generate` of transformers, which knows no others, keeps every begin-of-image:
  with history images they would tell how many items the user has.)
  """
  settings = model.generation_config
  kept = ids == settings.bos_token_id
  kept[:, -1] |= ids[:, -1] == settings.generation_kwargs["boi_token_id"]
  return ids.masked_fill(~kept, settings.pad_token_id)


def probabilities(
  logits: torch.Tensor,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> torch.Tensor:
  """Returns the distribution [..., C] that tokens are sampled from."""
  logits = logits / temperature
  if top_k:
    floor = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
    logits = logits.masked_fill(logits < floor, -torch.inf)
  if top_p < 1:
    ordered = logits.sort(-1, descending=True).values
    probs = ordered.softmax(-1)
    reached = probs.cumsum(-1) - probs >= top_p  # by the codes before
    floor = ordered.masked_fill(reached, torch.inf).amin(-1, keepdim=True)
    logits = logits.masked_fill(logits < floor, -torch.inf)
  return logits.softmax(-1)


def answer(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
  """Answers in words, by transformers' own `generate` and its options.

  Args:
    model: from `load`.
    inputs: from `question_prompt`.
    **options: such as max_new_tokens and do_sample.

  Returns:
    Token ids [n]; the processor's `decode` makes text of them.
  """
  inputs = inputs.to(model.device)
  if "pixel_values" in inputs:  # `generate` does not cast them
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
  ids = model.generate(**inputs, generation_mode="text", **options)
  return ids[0, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def decode_images(model: Any, codes: torch.Tensor) -> np.ndarray:
  """Decodes codes [num, I] to images, uint8 [num, S, S, 3]."""
  # One at a time: the decoder's feature maps are far larger than its images.
  pixels = torch.cat([model.decode_image_tokens(one[None]) for one in codes])
  return to_uint8(pixels)


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
  """Returns pixels in [-1, 1] as numpy uint8."""
  pixels = (pixels.cpu().float() / 2 + 0.5).clamp(0, 1)
  return (255 * pixels).round().to(torch.uint8).numpy()
