"""The Jinja environment of the pages: values are escaped, none is forgotten."""

import jinja2
from markupsafe import Markup
import pytest

from genrec_jax.html import render


def _page(folder, body, **values):
  template = folder / "report.html"
  template.write_text(
    '{% extends "base.html" %}{% from "macros.html" import facts %}'
    "{% block body %}" + body + "{% endblock %}"
  )
  return render.page(template, title="A & B", stamp="today", **values)


def test_values_are_escaped(tmp_path):
  text = _page(
    tmp_path,
    '<b title="{{ value }}">{{ value }}</b>'
    "{{ facts({value: value}) }}{{ raw }}",
    value="<script>'\"",
    raw=Markup("<hr>"),
  )
  assert "<script>" not in text
  assert '<b title="&lt;script&gt;&#39;&#34;">' in text
  assert text.count("&lt;script&gt;") == 4
  assert "<hr>" in text
  assert text.count("A &amp; B") == 2


def test_pages_share_their_style(tmp_path):
  text = _page(tmp_path, "")
  assert "prefers-color-scheme: dark" in text
  assert '"Segoe UI"' in text  # the style is not escaped


def test_a_value_that_nobody_gave_is_an_error(tmp_path):
  with pytest.raises(jinja2.UndefinedError, match="absent"):
    _page(tmp_path, "{{ absent }}")


def test_numbers_are_formatted_as_in_python(tmp_path):
  assert "1,234 12.3%" in _page(
    tmp_path, "{{ 1234 | fmt(',') }} {{ 0.1234 | fmt('.1%') }}"
  )
