"""Items: a title in words, and the image generated after it."""

from collections.abc import Callable, Sequence
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Writer:
  """What a family brings for items.

  Attributes:
    language: transformers' language model.
    embed: maps token ids [1, n] to embeddings [1, n, D].
    logits: maps states [1, D] to logits [1, V] of a title's next token.
    ends: tokens that end a title, the begin of an image among them.
    codes: maps embedded prompts, one after the other, options and random
      numbers to the codes of an image, [1, I].
  """

  language: Any
  embed: Callable[[torch.Tensor], torch.Tensor]
  logits: Callable[[torch.Tensor], torch.Tensor]
  ends: frozenset[int]
  codes: Callable[
    [Sequence[torch.Tensor], Sampling, torch.Generator], torch.Tensor
  ]


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
  settings = model.generation_config
  ends = first(settings.eos_token_id, [])
  writer = Writer(
    language=model.model.language_model,
    embed=lambda ids: embedded(model, ids),
    logits=lambda hidden: model.lm_head(hidden).float(),
    ends=frozenset(
      {
        settings.generation_kwargs["boi_token_id"],
        *(ends if isinstance(ends, list) else [ends]),
      }
    ),
    codes=lambda prompts, options, generator: decode_codes(
      model, prompts, 1, options, generator
    ),
  )
  return write_items(
    writer,
    embedded(model, ids, pixel_values),
    begin,
    torch.cat([unconditional_ids(model, ids), begin], 1),
    max_tokens=max_tokens,
    num=num,
    options=Sampling(**how),
    generator=Sampling(**how).generator(model),
  )


def write_items(
  writer: Writer,
  prompt: torch.Tensor,
  begin: torch.Tensor,
  nothing: torch.Tensor,
  *,
  max_tokens: int,
  num: int,
  options: Sampling,
  generator: torch.Generator,
) -> tuple[list[list[int]], torch.Tensor]:
  """Writes titles and generates the image after each.

  Args:
    writer: of the model.
    prompt: [1, T, D], without the begin of an image.
    begin: of an image, token ids [1, n].
    nothing: token ids [1, U] of the unconditional branch, the begin included.
    max_tokens: of a title with its end.
    num: how many items.
    options: how to sample.
    generator: see `Sampling.choose`.

  Returns:
    As `sample_items`.
  """
  titles: list[list[int]] = []
  codes: list[torch.Tensor] = []
  for _ in range(num):
    words = write_title(writer, prompt, max_tokens, options, generator)
    tail = torch.cat([begin.new_tensor([words]), begin], 1)  # [1, W + n]
    prompts = [torch.cat([prompt, writer.embed(tail)], 1)]
    if options.guidance != 1:
      prompts.append(writer.embed(nothing))
    codes.append(writer.codes(prompts, options, generator))
    titles.append(words)
  return titles, torch.cat(codes)


def write_title(
  writer: Writer,
  prompt: torch.Tensor,
  max_tokens: int,
  options: Sampling,
  generator: torch.Generator,
) -> list[int]:
  """Returns the words of a title after a prompt [1, T, D], without its end."""
  cached = new_cache(writer.language)
  words: list[int] = []
  step = prompt
  while True:
    out = writer.language(inputs_embeds=step, use_cache=True, **cached)
    logits = writer.logits(out.last_hidden_state[:, -1])  # [1, V]
    token = options.choose([logits], generator)
    if int(token) in writer.ends:
      return words
    words.append(int(token))
    if len(words) == max_tokens:
      return words
    step = writer.embed(token[None])
