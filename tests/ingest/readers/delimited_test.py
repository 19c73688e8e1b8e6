"""Rows come back as they were written; a bad one costs one line."""

import csv
import gzip
import io

from hypothesis import given, settings, strategies
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.ingest.readers import delimited
from genrec_jax.ingest.readers.table import open_table


def _rows(text, delimiter=",", quotes=True):
  lines = delimited.decoded(io.BytesIO(text.encode()))
  return [row for row, *_ in delimited.rows(lines, delimiter, quotes)]


FIELDS = strategies.text(
  strategies.sampled_from('ab,;" \n\té🎬'), max_size=6
).filter(lambda text: text == text.strip())


@settings(deadline=None)
@given(
  strategies.lists(
    strategies.lists(FIELDS, min_size=2, max_size=3), min_size=1, max_size=6
  ),
  strategies.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
  strategies.sampled_from(("\n", "\r\n")),
)
def test_what_a_csv_writer_writes_is_read(rows, quoting, newline):
  text = io.StringIO()
  csv.writer(text, quoting=quoting, lineterminator=newline).writerows(rows)
  assert _rows(text.getvalue()) == rows


def test_a_bad_row_costs_one_line():
  text = 'a,b\n"c,d\ne,"f"\n"g"h,i\nj "k",l\n\n"m\nn",o\n p , "q" \n"r,s\n'
  assert _rows(text) == [
    ["a", "b"],
    None,
    ["e", "f"],
    None,
    ['j "k"', "l"],
    ["m\nn", "o"],
    [" p ", "q"],
    None,
  ]
  assert _rows('a::"b\nc::d', "::", quotes=False) == [
    ["a", '"b'],
    ["c", "d"],
  ]


def test_many_unclosed_quotes_cost_little():
  assert _rows('"a,b\n' * 3001)[-1] is None


def test_lines_of_any_encoding_and_system():
  data = b"\xef\xbb\xbfa\r\nCaf\xe9\nCaf\xc3\xa9\rb\n"
  assert list(delimited.decoded(io.BytesIO(data))) == [
    *("a", "Caf\xe9", "Caf\xe9", "b")
  ]


@pytest.mark.parametrize(
  ("data", "plain"),
  [
    (b"a,b\nc,d\n", True),
    (b"a,b\r\nc,d", True),
    (b"", True),
    (b'a,"b"\n', False),
    (b"a\rb\n", False),
    (b"a\x00b\n", False),
    (b"Caf\xe9\n", False),
    (b"a" * (1 << 21), False),
  ],
)
def test_plain_files_are_known(data, plain, tmp_path):
  (tmp_path / "a").write_bytes(data)
  assert delimited.is_plain(tmp_path / "a") == plain
  (tmp_path / "a.gz").write_bytes(gzip.compress(data))
  assert delimited.is_plain(tmp_path / "a.gz") == plain


def test_columns_are_found_by_any_usual_name(tmp_path):
  path = tmp_path / "a.csv"
  names = {"user": ("user_id", "user"), "item": ("parent_asin",)}
  path.write_text('"User ID";Parent-Asin;user\n')
  table = open_table(path, names, required=("user", "item"))
  assert table.delimiter == ";"
  assert table.roles == {"user": "User ID", "item": "Parent-Asin"}
  path.write_text("userId,asin\n")
  with pytest.raises(UserError, match=r"no column for item .*'userId', 'asin'"):
    open_table(path, names, required=("user", "item"))
  for name, text in (("b.xlsx", ""), ("b.parquet", "x")):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"(?s)b\.\w+.*expected \.csv"):
      open_table(tmp_path / name, names, required=("user",))


def test_rewritten_rows_have_no_quotes_left(tmp_path):
  path = tmp_path / "a.csv"
  long = "9" * 2_000_000
  path.write_text(f'x,y\n1,"a, ""b""\nc"\n2,{long}\n3\n4,d\r\n')
  delimited.rewrite(path, tmp_path / "b", ",", fields=2)
  lines = (tmp_path / "b").read_text().splitlines()
  assert [line[:20] for line in lines] == [
    *('1\x1fa, "b" c', "2," + "9" * 18, "3", "4\x1fd")
  ]
  assert max(map(len, lines)) < 2000
