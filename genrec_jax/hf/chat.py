"""Chat templates: a user's turn as a checkpoint's own template renders it."""

from collections.abc import Sequence
from typing import Any

import jinja2

from genrec_jax.core.errors import UserError


def question(
  tokenizer: Any,
  template: str,
  titles: Sequence[str],
  text: str,
  *,
  image: str,
  give: str,
  system: str = "",
) -> str:
  """Renders a question about images, if there are any.

  Args:
    tokenizer: of transformers.
    template: Jinja, as transformers renders it.
    titles: one for each image, in their order; '' where one has none.
    text: the question.
    image: what stands for an image in what is rendered.
    give: a checkpoint whose template will do, for messages.
    system: text of a turn before the user's, if any.

  Raises:
    UserError: the template is wrong, or leaves images out: the answer would be
      about none of them.
  """
  parts: list[Any] = []
  for title in titles:
    parts += [{"type": "text", "text": title}] if title else []
    parts.append({"type": "image"})
  parts.append({"type": "text", "text": text})
  turns: list[dict[str, Any]] = [{"role": "user", "content": parts}]
  if system:
    said = [{"type": "text", "text": system}]
    turns.insert(0, {"role": "system", "content": said})
  problem, rendered = "", ""
  try:
    rendered = str(
      tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
      )
    )
  except (jinja2.TemplateError, TypeError) as error:
    problem = f"fails: {error}"
  if not problem and rendered.count(image) != len(titles):
    problem = f"has {rendered.count(image)} places for {len(titles)} images"
  if problem:
    raise UserError(
      f"the chat template of this checkpoint {problem}; take that of {give}, or"
      " none for the same"
    )
  return rendered
