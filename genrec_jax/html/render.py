"""HTML pages from Jinja templates that escape every value."""

import functools
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def page(template: Path, **values: Any) -> str:
  """Returns an HTML page.

  Every value is escaped, whatever the user's data holds; only a `Markup` is
  not. A name that the template uses and nobody gave is an error.

  Args:
    template: an HTML file, which may extend "base.html" (title and stamp, page
      style, blocks `style`, `body` and `end`) and import "macros.html".
    **values: of the template's names.
  """
  return (
    _environment(template.parent).get_template(template.name).render(values)
  )


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
  """Returns the environment of a folder of templates; knows this one, too."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader([folder, _FOLDER]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    # Lines of tags alone leave no empty lines in the page.
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,  # of the file that is written
  )
  # Ours, and the only text that enters a page as it is.
  environment.globals["css"] = Markup((_FOLDER / "page.css").read_text())
  # {{ 0.1234 | fmt(".1%") }}, as Python's own; Jinja's `format` is '%' only.
  environment.filters["fmt"] = format
  return environment
