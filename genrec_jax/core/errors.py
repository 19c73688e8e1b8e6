"""The one exception that means: the user can put this right."""


class UserError(Exception):
  """Says what is wrong, what was expected and what to do; ends main.py."""


def listed(heading: str, problems: list[str], limit: int = 20) -> str:
  """Returns a heading and its problems, one per line, the first `limit`."""
  lines = [f"  {problem}" for problem in problems[:limit]]
  if len(problems) > limit:
    lines.append(f"  ... and {len(problems) - limit} more")
  return "\n".join([heading, *lines])
