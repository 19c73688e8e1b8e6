"""Items: a title in words, and the image generated after it."""

from typing import Any

import torch

from .checkpoint import first
from .sampling import (
  Sampling,
  decode_codes,
  embedded,
  new_cache,
  unconditional_ids,
)


@torch.no_grad()
def sample_items(
  model: Any,
  input_ids: torch.Tensor,
  pixel_values: torch.Tensor | None = None,
  *,
  max_tokens: int = 32,
  num: int = 4,
  **how: Any,
) -> tuple[list[list[int]], torch.Tensor]:
  """Samples titles with images of one prompt, one item after another.

  The title is the prompt's own; the unconditional branch of the image's
  guidance sees neither history nor title.

  Args:
    model: from `load`.
    input_ids: [1, T], see `image_prompt`, ending with begin-of-image.
    pixel_values: [n, 3, S, S], see `image_prompt`.
    max_tokens: of a title with its end; one that is longer is cut off there.
    num: how many items.
    **how: fields of `Sampling`; the guidance is the image's.

  Returns:
    The words of the titles, token ids, and codes [num, I].
  """
  ids = input_ids.to(model.device)[:, :-1]  # the title goes before the image
  begin = input_ids.to(model.device)[:, -1:]
  prompt = embedded(model, ids, pixel_values)  # [1, T, D]
  other = torch.cat([unconditional_ids(model, ids), begin], 1)
  options = Sampling(**how)
  generator = options.generator(model)
  titles: list[list[int]] = []
  codes: list[torch.Tensor] = []
  for _ in range(num):
    words = write_title(model, prompt, max_tokens, options, generator)
    tail = torch.cat([ids.new_tensor([words]), begin], 1)  # [1, W + 1]
    prompts = [torch.cat([prompt, embedded(model, tail)], 1)]
    if options.guidance != 1:
      prompts.append(embedded(model, other))
    codes.append(decode_codes(model, prompts, 1, options, generator))
    titles.append(words)
  return titles, torch.cat(codes)


def write_title(
  model: Any,
  prompt: torch.Tensor,
  max_tokens: int,
  options: Sampling,
  generator: torch.Generator,
) -> list[int]:
  """Returns the words of a title after a prompt [1, T, D], without its end.

  What begins an image ends a title, and so does the end of an answer.
  """
  settings = model.generation_config
  ends = first(settings.eos_token_id, [])
  ends = {settings.generation_kwargs["boi_token_id"]} | (
    set(ends) if isinstance(ends, list) else {ends}
  )
  language = model.model.language_model
  cached = new_cache(language)
  words: list[int] = []
  step = prompt
  while True:
    out = language(inputs_embeds=step, use_cache=True, **cached)
    logits = model.lm_head(out.last_hidden_state[:, -1]).float()  # [1, V]
    token = options.choose([logits], generator)
    if int(token) in ends:
      return words
    words.append(int(token))
    if len(words) == max_tokens:
      return words
    step = embedded(model, token[None])
