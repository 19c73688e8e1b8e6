"""What raters read: consent, instructions, questions."""

from pathlib import Path
import re
from typing import NamedTuple

from genrec_jax.core.errors import UserError, one_line

# By the names under which answers are kept. Asked one after the other.
QUESTIONS = {
  "taste": "Which picture fits this person's taste?",
  "next": "Which would this person rather choose next?",
  "made": "Which looks better made?",
}
CONSENT = (
  "You will see what a person liked, and two pictures to compare. Some of the"
  " pictures were made by a computer program. It takes about ten minutes.",
  "We keep your answers, how long they took, and the participant numbers that"
  " a recruiting site put into the address of this page, if any. We keep"
  " neither your name nor your network address. The answers are published"
  " without participant numbers.",
  "Taking part is voluntary. You can stop at any time by closing this page:"
  " nothing is sent before you reach the end. You should be 18 or older.",
)


class Texts(NamedTuple):
  """Words of one study; all of them are shown as they are, never as HTML."""

  title: str = "Which picture fits?"
  consent: tuple[str, ...] = CONSENT  # paragraphs
  contact: str = ""  # whom to ask: a name, an e-mail address
  code: str = ""  # shown at the end, for recruiting sites


def read(path: str) -> tuple[str, ...]:
  """Returns the paragraphs of a text file, which empty lines part.

  Raises:
    UserError: the file is not there, is no text or is empty.
  """
  try:
    text = Path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"--consent={path}: {one_line(error)}; expected a text file in UTF-8"
    ) from None
  found = tuple(" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
  if not any(found):
    raise UserError(f"--consent={path} is empty: expected a text")
  return tuple(filter(None, found))
