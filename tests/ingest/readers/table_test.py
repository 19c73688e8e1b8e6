"""Files as they come: packed, encoded, in parts, called or dated anyhow."""

import bz2
import datetime
import functools
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import zipfile

import duckdb
from PIL import Image
import pytest

from genrec_jax.core import duckdb_file
from genrec_jax.core.errors import UserError
from genrec_jax.data import dataset
from genrec_jax.ingest import job, raw_data, raw_tables, tfds_builder
from genrec_jax.ingest.datasets import DATASETS
from genrec_jax.ingest.readers import (
  amazon,
  generic,
  movielens,
)
from genrec_jax.ingest.readers.table import open_table

NAMES = {name: name for name in ("user", "item", "timestamp", "title")}
ROWS = [(f"u{u}", f"é{i}", 1_600_000_000 + i) for u in "ab" for i in (0, 1)]
KEPT = {user: ["é0", "é1"] for user in ("ua", "ub")}
CSV = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)
JSONL = "".join(
  json.dumps({"user": u, "item": i, "timestamp": t}) + "\n" for u, i, t in ROWS
)
DAT = "".join(f"{u}::{i}::5::{t}\r\n" for u, i, t in ROWS)


@pytest.fixture
def raw(tmp_path):
  """A folder of everything but interactions."""
  folder = tmp_path / "raw"
  (folder / "images").mkdir(parents=True)
  (folder / "items.csv").write_text("item,title\né0,Nought\né1,One\n")
  for item in ("é0", "é1"):
    Image.new("RGB", (9, 9), "red").save(folder / f"images/{item}.png")
  return folder


def _make(tables, raw, work, **kwargs):
  found = raw_data.Raw(*tables, raw / "images", **kwargs)
  settings = raw_data.settings(
    found,
    dataset="generic",
    min_rating=None,
    k_core=1,
    future_horizon=1,
    image_size=32,
  )
  return job.make(found, work, settings, processes=1, memory_gb=0.5)


def _import(raw, name, **names):
  """Imports a file of interactions; returns items by user and the report."""
  tables = generic.tables(raw, name, "items.csv", NAMES | names)
  work = _make(tables, raw, raw.parent / "work")
  found = {h.user: list(h.items) for h, _ in work.histories()}
  return found, work.report


def _tar(data):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w:gz") as archive:
    entry = tarfile.TarInfo("ratings.csv")
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
  return file.getvalue()


def _zip(data):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("ratings.csv", data)
  return file.getvalue()


PACKED = {
  "plain": lambda data: data,
  "gzip": gzip.compress,
  "bzip2": bz2.compress,
  "xz": lzma.compress,
  "members": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
}
ENCODED = {
  "UTF-8": str.encode,
  "marked UTF-8": functools.partial(str.encode, encoding="utf-8-sig"),
  "UTF-16": functools.partial(str.encode, encoding="utf-16"),
  "UTF-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
  "UTF-16 unmarked": functools.partial(str.encode, encoding="utf-16-le"),
  "UTF-32": functools.partial(str.encode, encoding="utf-32"),
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("name", ["e.csv", "e.jsonl.gz", "e.dat"])
def test_any_encoding_is_read(name, encoding, raw):
  text = {"csv": CSV, "jsonl": JSONL, "dat": DAT}[name.split(".")[1]]
  (raw / name).write_bytes(ENCODED[encoding](text))
  if name == "e.dat":
    os.rename(raw / name, raw / "ratings.dat")
    movies = "é0::Nought::x\r\né1::One::x\r\n"
    (raw / "movies.dat").write_bytes(ENCODED[encoding](movies))
    work = _make(movielens.tables(raw), raw, raw.parent / "work")
    assert {h.user: list(h.items) for h, _ in work.histories()} == KEPT
  else:
    assert _import(raw, name)[0] == KEPT


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.jsonl", "e.json.xz"])
def test_any_packing_is_read_whatever_the_name_says(name, packing, raw):
  text = JSONL if "json" in name else CSV
  (raw / name).write_bytes(PACKED[packing](text.encode()))
  assert _import(raw, name)[0] == KEPT


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("e.csv.zst", b"\x28\xb5\x2f\xfd....", r"packed with zstd: unpack it"),
    ("e.csv", _zip(b"a,b\n"), r"ZIP archive or an Excel file: unpack it"),
    ("e.csv.zip", _zip(b"a,b\n"), r"ZIP archive"),
    ("e.csv.gz", _tar(b"a,b\n"), r"a tar archive: unpack it"),
    ("e.csv", b"PAR1\x15\x04", r"a Parquet file: give it a name"),
    ("e.jsonl", b"\n<!DOCTYPE html><p>Log in", r"a web page: fetch the file"),
    ("e.csv", b"", r"is empty: 0 bytes"),
    ("e.csv.gz", gzip.compress(b"", mtime=0), r"its columns are none"),
    ("e.jsonl", b"", r"is empty: 0 bytes"),
    ("e.json", b'[\n{"user": "1"}\n]', r"one JSON array: expected an object a"),
    ("e.json", b"{'user': '1'}\n", r"no JSON of that form.*begins with \"{'us"),
    ("e.parquet", b"", r"e\.parquet"),
    ("e.csv", b"user,item,Item ,timestamp\n1,2,3,4\n", None),
    (
      "e.csv",
      b"user,ITEM,Item ,timestamp\n1,2,3,4\n",
      r"2 columns that may be",
    ),
    (
      "e.csv",
      b"user,item,item,timestamp\n1,2,3,4\n",
      r"'item', 'item'\. Re",
    ),
  ],
)
def test_what_is_no_table_is_said_to_be_so(name, data, message, raw):
  (raw / name).write_bytes(data)
  if message is None:  # the exact name counts
    tables = generic.tables(raw, name, "items.csv", NAMES)
    assert tables[0].roles["item"] == "item"
    return
  with pytest.raises(UserError, match=message) as error:
    generic.tables(raw, name, "items.csv", NAMES)
  assert name in str(error.value)
  assert "\0" not in str(error.value)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
  "damage", ["cut", "flipped", "checksum", "tail", "padded"]
)
def test_damaged_gzip_is_never_read_as_rows(form, damage, raw):
  text = {"csv": CSV, "jsonl": JSONL}[form]
  for user in range(3000):
    line = (f"v{user * 7919 % 3001}", "é0", 1_600_000_000 + user)
    keys = ("user", "item", "timestamp")
    text += (
      ",".join(map(str, line))
      if form == "csv"
      else json.dumps(dict(zip(keys, line, strict=True)))
    ) + "\n"
  data = bytearray(gzip.compress(text.encode()))
  if damage == "cut":
    data = data[: len(data) // 2]
  elif damage == "flipped":
    data[len(data) // 2] ^= 255
  elif damage == "checksum":
    data[-8] ^= 1
  else:
    data += b"tail" if damage == "tail" else bytes(64)
  (raw / f"e.{form}.gz").write_bytes(data)
  with pytest.raises(UserError, match=rf"e\.{form}\.gz.*Fetch it again"):
    _import(raw, f"e.{form}.gz")


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl"])
def test_a_table_of_no_rows_says_so(name, raw):
  (raw / name).write_text("user,item,timestamp\n")
  if name == "e.jsonl":
    row = json.dumps({"user": "", "item": "", "timestamp": ""})
    (raw / name).write_text(row + "\n")
  with pytest.raises(UserError, match=r"(?s)nothing is left.*e\."):
    _import(raw, name)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_any_delimiter(delimiter, raw):
  (raw / "e.csv").write_text("\ufeff" + CSV.replace(",", delimiter))
  assert _import(raw, "e.csv")[0] == KEPT


# --- Parquet ------------------------------------------------------------------


def _parquet(query, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  with duckdb.connect() as connection:
    connection.execute("SET TimeZone = 'America/New_York'")
    connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


def _rows(user=None):
  values = ", ".join(
    f"('{u}', '{i}', {t})" for u, i, t in ROWS if user in (None, u)
  )
  return f'(VALUES {values}) t("user", item, timestamp)'


def test_a_folder_of_parts_is_a_table(raw):
  for user in ("ua", "ub"):
    name = f"e.parquet/deep/part-{user}.snappy.parquet"
    _parquet(f"FROM {_rows(user)}", raw / name)
  (raw / "e.parquet/_SUCCESS").touch()
  (raw / "e.parquet/._part.parquet").write_bytes(b"of a Mac")
  found, report = _import(raw, "e.parquet")
  assert found == KEPT
  assert report["rows"]["read"] == 4


def test_columns_in_the_names_of_folders_are_text(raw):
  for user, folder in (("ua", "customer=007"), ("ub", "customer=7")):
    query = f"SELECT item, timestamp FROM {_rows(user)}"
    _parquet(query, raw / "events [1]" / folder / "part.parquet")
  found, _ = _import(raw, "events [1]", user="customer")
  assert found == {"007": ["é0", "é1"], "7": ["é0", "é1"]}


def test_folders_that_are_no_table_are_said_to_be_so(raw):
  (raw / "e.csv").mkdir()
  (raw / "e.csv/part-0.csv").write_text(CSV)
  with pytest.raises(UserError, match=r"e\.csv is a folder \(part-0\.csv\)"):
    generic.tables(raw, "e.csv", "items.csv", NAMES)
  for name, kind in (
    ("_delta_log", "Delta table"),
    ("_temporary", "not whole"),
  ):
    _parquet(f"FROM {_rows()}", raw / f"{kind}.parquet/part.parquet")
    (raw / f"{kind}.parquet" / name).mkdir()
    with pytest.raises(UserError, match=kind):
      generic.tables(raw, f"{kind}.parquet", "items.csv", NAMES)
  with pytest.raises(UserError, match=r"x\.csv is not there"):
    generic.tables(raw, "x.csv", "items.csv", NAMES)


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT", "DECIMAL(12, 2)"])
def test_ids_that_pandas_made_floats(kind, raw):
  (raw / "items.csv").write_text("item,title\n1001,A\n1002,B\n")
  for item in (1001, 1002):
    os.rename(raw / f"images/é{item - 1001}.png", raw / f"images/{item}.png")
  missing = "" if "DEC" in kind else ", ('NaN'::DOUBLE, 1001, 1)"
  _parquet(
    f'SELECT u::{kind} AS "user", i::{kind} AS item, t AS timestamp FROM '
    f"(VALUES (7, 1001, 1), (7, 1002, 2), (NULL, 1001, 1){missing}) t(u, i, t)",
    raw / "e.parquet",
  )
  found, report = _import(raw, "e.parquet")
  assert found == {"7": ["1001", "1002"]}
  assert report["rows"]["dropped"] == {"missing_user": 1 + bool(missing)}


@pytest.mark.parametrize(
  ("kind", "written", "read"),
  [
    ("DOUBLE", 9007199254740993, 9007199254740992),
    ("FLOAT", 16777217, 16777216),
  ],
)
def test_ids_that_have_lost_digits_are_refused(kind, written, read, raw):
  _parquet(
    f"SELECT {written}::{kind} AS \"user\", 'é0' AS item, 1 AS timestamp",
    raw / "e.parquet",
  )
  with pytest.raises(UserError, match=rf'"user".*{read}.*lost digits'):
    _import(raw, "e.parquet")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_ids_of_text_that_all_end_in_point_zero(form, raw):
  (raw / "items.csv").write_text("item,title\n1001,A\n1002.0,B\n")
  for item in ("1001", "1002.0"):
    Image.new("RGB", (9, 9)).save(raw / f"images/{item}.png")
  rows = [("7.0", "1001.0", 1), ("", "1001.0", 2), ("8.0", "1001.0", 3)]
  keys = ("user", "item", "timestamp")
  if form == "csv":
    lines = [",".join(map(str, row)) for row in (keys, *rows)]
  else:
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
  text = "\n".join(lines)
  (raw / f"e.{form}").write_text(text)
  assert _import(raw, f"e.{form}")[0] == {"7": ["1001"], "8": ["1001"]}
  # One that does not says that they are text.
  (raw / f"e.{form}").write_text(text.replace("8.0", "x"))
  assert _import(raw, f"e.{form}")[0] == {"7.0": ["1001"], "x": ["1001"]}


def test_binary_columns_are_text(raw):
  _parquet(
    'SELECT encode("user") AS "user", encode(item) AS item, timestamp FROM '
    + _rows(),
    raw / "e.parquet",
  )
  assert _import(raw, "e.parquet")[0] == KEPT


# --- times --------------------------------------------------------------------

INSTANT = datetime.datetime(2020, 7, 2, 3, 4, 5, tzinfo=datetime.UTC)
MS = 1_593_659_045_000
SAME = (
  "2020-07-02T03:04:05Z",
  "2020-07-02T05:04:05+02:00",
  "2020-07-02T05:04:05+0200",
  "2020-07-02 05:04:05 +0200",
  "2020-07-01 22:04:05-05",
  "2020-07-02 08:34:05+05:30",
  "2020-07-02 03:04:05 UTC",
  "2020-07-02 03:04:05 GMT",
  "2020-07-02 05:04:05 UTC+2",
  "2020-07-02 03:04:05 +0000 UTC",
  "2020-07-02T05:04:05.000+02:00[Europe/Berlin]",
  "2020-07-02 05:04:05 Europe/Berlin",
  "2020-07-02T03:04:05.000000000Z",
  "2020-07-02 03:04:05",
  "2020/07/02 03:04:05",
  "1593659045",
  "1593659045000",
  "1593659045000000",
  "1593659045000000000",
  "1.593659045e9",
  "1593659045.0",
)
# Short names are of several zones: BST is Bangladesh's and Britain's.
UNREADABLE = (
  *("2020-07-02 03:04:05 BST", "2020-07-02 03:04:05 XYZ", "2020-13-45"),
  *("-1593659045000", "NaT", "nan", "inf", "infinity", "soon"),
)


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request, monkeypatch):
  monkeypatch.setenv("TZ", request.param)
  time.tzset()
  yield request.param
  monkeypatch.undo()
  time.tzset()


def _times(table, work):
  work.mkdir(exist_ok=True)
  with duckdb_file.connect(work, 0.5, 1) as db:
    raw_tables.read_events(db, table, None, work)
    rows = db.execute('SELECT "user", ms, reason FROM raw_events').fetchall()
  return {user: (ms, reason) for user, ms, reason in rows}


@pytest.mark.parametrize("form", ["csv", "jsonl", "dat", "parquet"])
def test_an_instant_is_the_same_however_it_is_written(form, zone, tmp_path):
  rows = list(enumerate((*SAME, *UNREADABLE)))
  path = tmp_path / f"e.{form}"
  if form == "csv":
    lines = [f"{n},i,{text}\n" for n, text in rows]
    path.write_text("user,item,timestamp\n" + "".join(lines))
  elif form == "dat":
    path.write_text("".join(f"{n}::i::{text}\n" for n, text in rows))
  elif form == "jsonl":
    keys = ("user", "item", "timestamp")
    path.write_text(
      "".join(
        json.dumps(dict(zip(keys, (str(n), "i", text), strict=True))) + "\n"
        for n, text in rows
      )
    )
  else:
    values = ", ".join(f"('{n}', 'i', '{text}')" for n, text in rows)
    _parquet(f'FROM (VALUES {values}) t("user", item, timestamp)', path)
  names = {name: (name,) for name in ("user", "item", "timestamp")}
  table = open_table(
    path,
    names,
    required=tuple(names),
    columns=tuple(names) if form == "dat" else None,
  )
  found = _times(table, tmp_path / "work")
  assert found == {
    str(n): (MS, None) if text in SAME else (found[str(n)][0], "bad_timestamp")
    for n, text in rows
  }


@pytest.mark.parametrize(
  "value",
  [
    "TIMESTAMPTZ '2020-07-02 05:04:05+02'",
    "TIMESTAMP '2020-07-02 03:04:05'",
    "TIMESTAMP_NS '2020-07-02 03:04:05'",
    "TIMESTAMP_S '2020-07-02 03:04:05'",
    "1593659045",
    "1593659045000.0::DOUBLE",
    "1593659045.0::DECIMAL(12, 1)",
  ],
)
def test_an_instant_of_any_type_of_column(value, zone, tmp_path):
  path = tmp_path / "e.parquet"
  _parquet(f"SELECT '0' AS \"user\", 'i' AS item, {value} AS timestamp", path)
  names = {name: (name,) for name in ("user", "item", "timestamp")}
  table = open_table(path, names, required=tuple(names))
  assert _times(table, tmp_path / "work") == {"0": (MS, None)}


# --- paths --------------------------------------------------------------------

FOLDERS = (
  *("[x] (1)", "wh?t", "st*r", "**", "{a,b}", "Paul's", 'a "b"', "50% é"),
  *("a;b", "new\nline", "back\\slash", "x=1", "#?q=1", "~", "]["),
)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", FOLDERS)
def test_names_of_folders_are_no_patterns(name, form, tmp_path):
  # Next to it, what the name as a pattern matches.
  other = {"[x] (1)": "x (1)", "wh?t": "what", "st*r": "star"}.get(name, "o")
  for folder, prefix in ((name, "u"), (other, "v"), ("a", "v")):
    raw = tmp_path / folder
    (raw / "images").mkdir(parents=True, exist_ok=True)
    rows = [(prefix + str(u), "i", 1 + u) for u in range(2)]
    if form == "parquet":
      values = ", ".join(map(str, rows))
      _parquet(
        f'FROM (VALUES {values}) t("user", item, timestamp)',
        tmp_path / "e.parquet",
      )
      os.rename(tmp_path / "e.parquet", raw / "e.parquet")
    elif form == "csv":
      lines = "".join(f"{u},{i},{t}\n" for u, i, t in rows)
      (raw / "e.csv").write_text("user,item,timestamp\n" + lines)
    else:
      keys = ("user", "item", "timestamp")
      lines = [json.dumps(dict(zip(keys, r, strict=True))) for r in rows]
      (raw / "e.jsonl").write_text("\n".join(lines))
    (raw / "items.csv").write_text("item,title\ni,One\n")
    Image.new("RGB", (9, 9)).save(raw / "images/i.png")
  raw = tmp_path / name
  tables = generic.tables(raw, f"e.{form}", "items.csv", NAMES)
  work = _make(tables, raw, raw / "work")
  out = raw / "out"
  if form == "csv":
    tfds_builder.store("generic", work, out)
    users = [record["id"].decode() for record in dataset.load(out).users]
    assert not (out / "downloads").exists()
  else:
    users = [history.user for history, _ in work.histories()]
  assert users == ["u0", "u1"]


def test_a_name_that_no_pattern_can_mean_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"a.*\\.*Rename the folder"):
    duckdb_file.pattern(tmp_path / "a\\[b]")


def test_benchmarks_are_found_packed(tmp_path):
  header = b"userId,movieId,rating,timestamp\n"
  (tmp_path / "ratings.csv.xz").write_bytes(lzma.compress(header))
  (tmp_path / "movies.csv").write_bytes(b"movieId,title\n")
  assert [t.path.name for t in movielens.tables(tmp_path)] == [
    *("ratings.csv.xz", "movies.csv")
  ]
  (tmp_path / "pairs.csv.bz2").write_bytes(
    bz2.compress(b"user,item,timestamp\n")
  )
  with pytest.raises(UserError, match=r"interactions: .*ratings\.csv\.xz"):
    DATASETS["microlens"].tables(tmp_path)
  meta = gzip.compress(b'{"parent_asin": "1", "title": "x"}\n')
  (tmp_path / "meta_Books.jsonl.gz").write_bytes(meta)
  (tmp_path / "Books.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd")
  with pytest.raises(UserError, match=r"Books\.csv\.zst is packed with zstd"):
    amazon.tables(tmp_path)
