"""How the pages look that runs and imports leave."""

from pathlib import Path

_FILE = Path(__file__).with_name("page.css")


def read() -> str:
  """Returns the CSS that all pages share, in light and dark."""
  return _FILE.read_text()
