"""Items: a title in words, and the image generated after it."""

from typing import Any

import torch

from .checkpoint import first
from .sampling import (
  decode_codes,
  embedded,
  new_cache,
  probabilities,
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
  guidance: float = 5.0,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  greedy: bool = False,
  seed: int = 0,
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
    guidance: see `sample_codes`, as the next four; of images alone.
    temperature: divides the logits.
    top_k: keep the k likeliest.
    top_p: keep the likeliest up to this probability.
    greedy: take the likeliest; all items are then the same.
    seed: of the sampling.

  Returns:
    The words of the titles, token ids, and codes [num, I].
  """
  ids = input_ids.to(model.device)[:, :-1]  # the title goes before the image
  begin = input_ids.to(model.device)[:, -1:]
  prompt = embedded(model, ids, pixel_values)  # [1, T, D]
  other = torch.cat([unconditional_ids(model, ids), begin], 1)
  generator = torch.Generator(model.device).manual_seed(seed)
  options: dict[str, Any] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "greedy": greedy,
    "generator": generator,
  }
  titles: list[list[int]] = []
  codes: list[torch.Tensor] = []
  for _ in range(num):
    words = write_title(model, prompt, max_tokens=max_tokens, **options)
    tail = torch.cat([ids.new_tensor([words]), begin], 1)  # [1, W + 1]
    prompts = [torch.cat([prompt, embedded(model, tail)], 1)]
    if guidance != 1:
      prompts.append(embedded(model, other))
    codes.append(
      decode_codes(model, prompts, num=1, guidance=guidance, **options)
    )
    titles.append(words)
  return titles, torch.cat(codes)


def write_title(
  model: Any,
  prompt: torch.Tensor,
  *,
  max_tokens: int,
  temperature: float,
  top_k: int,
  top_p: float,
  greedy: bool,
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
    if greedy:
      token = logits.argmax(-1)
    else:
      probs = probabilities(logits, temperature, top_k, top_p)
      token = torch.multinomial(probs, 1, generator=generator)[:, 0]
    if int(token) in ends:
      return words
    words.append(int(token))
    if len(words) == max_tokens:
      return words
    step = embedded(model, token[None])
