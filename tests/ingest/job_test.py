"""Each benchmark's raw files, as dirty as they come, to the last row."""

import collections
import csv
import io
import pathlib
import shutil

import duckdb
from hypothesis import HealthCheck, given, settings, strategies
import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.data import histories
from genrec_jax.ingest import image_store, job, raw_data, work_folder
from genrec_jax.ingest.datasets import DATASETS
from genrec_jax.ingest.readers import (
  amazon,
  generic,
  movielens,
)
from genrec_jax.ingest.readers.table import open_table
from tests.ingest import dirty

LATIN = "Caf\xe9".encode("latin-1")
MALFORMED = (b"u1,g0", b"u1,g0,5,1500000000,1,2,3", b'"u1,g0,5,1500000000')


def _titles(*more):
  """Returns rows (id, title, something), among them a second of g0."""
  rows = [(item, title, "x") for item, title in dirty.TITLES.items()]
  return [*rows, ("g0", "Another", "x"), ("", "Nobody's", "x"), *more]


def _movielens_csv(raw):
  rows = dirty.events() + dirty.rated()
  header = ("userId", "movieId", "rating", "timestamp")
  table = [row[:4] for row in rows]
  dirty.write_csv(raw / "ratings.csv", header, table, MALFORMED)
  extra = (b"g6," + LATIN + b",x", b"", b"7", b'g7,"open,x')
  dirty.write_csv(
    raw / "movies.csv", ("Id", "Title", "Genres"), _titles(), extra, "\n"
  )
  return movielens.tables(raw), rows, {"rows": 3, "titles": 2, "unused": 1}


def _movielens_dat(raw):
  rows = dirty.events() + dirty.rated()
  lines = ["::".join(map(str, row[:4])) for row in rows]
  lines += ["u1::g0", "u1,g0,5,1500000000"]
  (raw / "ratings.dat").write_bytes("\r\n".join(lines).encode())
  movies = ["::".join(row).replace("\n", " ") for row in _titles()]
  data = "\n".join(movies).encode() + b"\ng6::" + LATIN + b"::x\ng7\n"
  (raw / "movies.dat").write_bytes(data)
  return movielens.tables(raw), rows, {"rows": 2, "titles": 1, "unused": 1}


def _meta(raw, name):
  rows = [
    {"parent_asin": item, "title": title, "images": [{"variant": "MAIN"}]}
    for item, title, _ in _titles()
  ]
  extra = (b'{"parent_asin": "g6", "title": "' + LATIN + b'"}', b"", b"[1]")
  dirty.write_jsonl(raw / name, rows, extra)


def _amazon_jsonl(raw):
  rows = dirty.events() + dirty.rated()
  objects = [
    {
      "rating": rating or None,
      "title": "of the review",
      "text": 'with "quotes"\nand lines',
      "asin": f"{item}-variant",
      "parent_asin": item or None,
      "user_id": user,
      "timestamp": time * 1000
      if isinstance(time, int) and time < 10**12
      else time,
    }
    for user, item, rating, time, _ in rows
  ]
  objects[0]["sortTimestamp"] = 1
  extra = (b'{"broken', b"[1, 2]", b"null", b"", b'{"title": "' + LATIN + b'"}')
  dirty.write_jsonl(raw / "Books.jsonl.gz", objects, extra)
  _meta(raw, "meta_Books.jsonl.gz")
  tables = amazon.tables(raw)
  return tables, rows, {"rows": 4, "titles": 2, "unused": 0}


def _amazon_csv(raw):
  rows = dirty.events() + dirty.rated()
  header = ("user_id", "parent_asin", "rating", "sortTimestamp")
  table = [row[:4] for row in rows]
  dirty.write_csv(raw / "Books.csv.gz", header, table, MALFORMED, "\n")
  _meta(raw, "meta_Books.jsonl")
  tables = amazon.tables(raw)
  return tables, rows, {"rows": 3, "titles": 2, "unused": 0}


def _pixelrec(raw):
  rows = dirty.events()
  header = ("item_id", "user_id", "timestamp")
  table = [(item, user, time) for user, item, _, time, _ in rows]
  dirty.write_csv(raw / "Pixel200K.csv", header, table, MALFORMED[:2], "\n")
  dirty.write_csv(
    raw / "item_info.csv", ("item_id", "title", "tag"), _titles(), (b"7",)
  )
  return (
    DATASETS["pixelrec"].tables(raw),
    rows,
    {"rows": 2, "titles": 1, "unused": 0},
  )


def _microlens(raw):
  rows = dirty.events()
  table = [(user, item, time) for user, item, _, time, _ in rows]
  dirty.write_csv(
    raw / "MicroLens-50k_pairs.csv",
    ("userID", "videoID", "timestamp"),
    table,
    quoting=csv.QUOTE_ALL,
  )
  dirty.write_csv(
    raw / "MicroLens-50k_titles.csv",
    ("item", "title"),
    [row[:2] for row in _titles()],
  )
  return (
    DATASETS["microlens"].tables(raw),
    rows,
    {"rows": 0, "titles": 0, "unused": 0},
  )


def _generic_parquet(raw):
  rows = dirty.events() + dirty.rated()
  with duckdb.connect() as connection:
    connection.execute(
      "CREATE TABLE t (w VARCHAR, x VARCHAR, y VARCHAR, z VARCHAR)"
    )
    connection.executemany(
      "INSERT INTO t VALUES (?, ?, ?, ?)", [row[:4] for row in rows]
    )
    connection.execute(f"COPY t TO '{raw / 'events.parquet'}' (FORMAT parquet)")
  key = """it's "an" ~1/id.x"""
  titles = [{key: i, "name": t} for i, t, _ in _titles()]
  dirty.write_jsonl(raw / "items.jsonl", titles, (b"{",))
  columns = {"user": "w", "item": "x", "rating": "y", "timestamp": "z"}
  columns |= {"title_item": key, "title": "name", "image": ""}
  tables = generic.tables(raw, "events.parquet", "items.jsonl", columns)
  return tables, rows, {"rows": 0, "titles": 1, "unused": 0}


WRITERS = {
  writer.__name__.strip("_"): writer
  for writer in (
    _movielens_csv,
    _movielens_dat,
    _amazon_jsonl,
    _amazon_csv,
    _pixelrec,
    _microlens,
    _generic_parquet,
  )
}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("raw") / "images"
  return folder, dirty.write_images(folder)


def _make(raw, work, processes=1, **kwargs):
  chosen = {
    "dataset": "generic",
    "min_rating": 4.0 if raw.interactions.has("rating") else None,
    "k_core": 2,
    "future_horizon": 1,
    "image_size": 32,
    **kwargs,
  }
  return job.make(
    raw,
    work,
    raw_data.settings(raw, **chosen),
    processes=processes,
    memory_gb=0.5,
  )


@pytest.mark.parametrize("name", WRITERS)
def test_every_raw_row_is_in_its_bucket(name, image_folder, tmp_path):
  raw_folder = tmp_path / "raw"
  raw_folder.mkdir()
  tables, rows, bad = WRITERS[name](raw_folder)
  folder, bad_files = image_folder
  raw = raw_data.Raw(*tables, folder)
  work = _make(raw, tmp_path / "work")
  report, kept = work.report, dirty.kept(rows)

  malformed = {"malformed_row": bad["rows"]} if bad["rows"] else {}
  number = sum(map(len, kept.values()))
  assert report["rows"] == {
    "read": len(rows) + bad["rows"],
    "kept": number,
    "dropped": {**malformed, **dirty.buckets(rows)},
  }
  # unrated, no image, a path, a link and five bad images are of no kept row.
  unused = {"unused_title": 9 + bad["unused"]}
  malformed = {"malformed_title_row": bad["titles"]} if bad["titles"] else {}
  assert report["titles"] == {
    "read": len(_titles()) + bad["titles"] + bad["unused"],
    "kept": len(dirty.GOOD),
    "dropped": {
      **malformed,
      "title_without_item": 1,
      "empty_title": 1,
      "second_title_of_item": 1,
      **unused,
    },
  }
  assert report["images"]["dropped"] == bad_files
  assert report["images"]["kept"] == len(dirty.GOOD)
  for part in ("rows", "titles", "images"):
    counts = report[part]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"].keys() <= report["offenders"].keys()
  offenders = report["offenders"]
  assert "http://example.org/1" in offenders["bad_timestamp"][0]
  assert offenders["missing_user"][0].startswith("user (none), item g3, ")
  assert offenders["title_without_item"] == ["Nobody's"]

  assert (report["users"], report["events"]) == (len(kept), number)
  assert report["windows"] == {"train": 16, "validation": 3, "test": 3}
  found = {}
  for history, item_rows in work.histories():
    found[history.user] = list(
      zip(history.timestamps.tolist(), history.items, strict=True)
    )
    assert tuple(np.asarray(work.item_ids())[item_rows]) == history.items
  assert found == kept
  assert list(found) == sorted(found)
  # u1 to u3, within a day: 8 events at 3 times; u4: 2 events.
  assert report["users_of_one_day"] == len(kept) == 4
  assert report["tied_share"] == pytest.approx(3 * 5 / (3 * 7 + 1))
  items = list(work.items())
  assert {item.id: item.title for item in items} == dirty.CLEAN
  assert [item.id for item in items] == sorted(dirty.GOOD)

  again = _make(raw, tmp_path / "again", processes=2)
  assert list(again.items()) == items
  for file in (work_folder.USERS, work_folder.EVENTS, work_folder.REPORT):
    first, second = (w.folder / file for w in (work, again))
    assert first.read_bytes() == second.read_bytes()


def test_images_are_stored_as_documented(image_folder, tmp_path):
  (tmp_path / "raw").mkdir()
  tables, *_ = _microlens(tmp_path / "raw")
  work = _make(raw_data.Raw(*tables, image_folder[0]), tmp_path / "work")
  found = {item.id: Image.open(io.BytesIO(item.image)) for item in work.items()}
  assert {(i.format, i.mode) for i in found.values()} == {("JPEG", "RGB")}
  sizes = {item: image.size for item, image in found.items()}
  # 50 x 70 pixels with the shorter side at 32; the other one is turned. Images
  # of 40 x 30 are small enough already.
  tall = {"0012345": (32, 45), "12345": (30, 40)}
  assert sizes == dict.fromkeys(dirty.GOOD, (40, 30)) | tall


def test_a_stopped_import_goes_on(image_folder, tmp_path, monkeypatch):
  (tmp_path / "raw").mkdir()
  tables, *_ = _movielens_csv(tmp_path / "raw")
  raw = raw_data.Raw(*tables, image_folder[0])
  monkeypatch.setattr(image_store, "CHUNK", 4)
  whole = _make(raw, tmp_path / "whole")

  encode, calls = image_store.encode_chunk, []

  def stop_at_second(*args):
    calls.append(args)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return encode(*args)

  monkeypatch.setattr(image_store, "encode_chunk", stop_at_second)
  with pytest.raises(KeyboardInterrupt):
    _make(raw, tmp_path / "work")
  assert not (tmp_path / "work" / work_folder.REPORT).exists()
  work = _make(raw, tmp_path / "work", processes=1)
  assert len(calls) == 2 + 3  # of 4 chunks the first one was there
  assert list(work.items()) == list(whole.items())
  assert work.report == whole.report
  before = (work.folder / work_folder.EVENTS).stat().st_mtime_ns
  _make(raw, tmp_path / "work")  # is finished
  assert (work.folder / work_folder.EVENTS).stat().st_mtime_ns == before

  # Of other images, nothing is used again.
  other = tmp_path / "images"
  other.mkdir()
  for item in dirty.GOOD:
    Image.new("RGB", (9, 9), "red").save(other / f"{item}.png")
  again = _make(raw_data.Raw(*tables, other), tmp_path / "work")
  assert next(again.items()).image != next(whole.items()).image


def test_image_paths_that_leave_the_folder_are_counted(image_folder, tmp_path):
  root = image_folder[0]
  paths = {
    "a": "g0.jpg",
    "b": "./more/0012345.png",
    "c": str(root / "12345.jpeg"),
    "d": "../x.jpg",
    "e": str(root.parent / "x.jpg"),
    "f": "more/../../x.jpg",
    "g": "link.jpg",
    "h": "",
    "i": "http://example.org/x.jpg",
    "j": "C:\\x.jpg",
  }
  dirty.write_csv(
    tmp_path / "items.csv",
    ("item", "title", "image"),
    [(item, f"Title {item}", path) for item, path in paths.items()],
  )
  dirty.write_csv(
    tmp_path / "events.tsv",
    ("user", "item", "timestamp"),
    [("u", item, "2020-01-02 03:04:05") for item in paths],
    delimiter="\t",
  )
  names = ("user", "item", "timestamp", "title", "image")
  tables = generic.tables(
    tmp_path, "events.tsv", "items.csv", dict(zip(names, names, strict=True))
  )
  report = _make(
    raw_data.Raw(*tables, root), tmp_path / "work", k_core=1
  ).report
  dropped = {"image_outside_folder": 4, "no_image": 3}
  assert report["rows"] == {"read": 10, "kept": 3, "dropped": dropped}
  assert report["offenders"]["image_outside_folder"][0] == "item d: ../x.jpg"
  assert report["gaps"] == {"tied": 2} | dict.fromkeys(
    list(report["gaps"])[1:], 0
  )


def test_an_image_list_names_the_files(image_folder, tmp_path):
  (tmp_path / "raw").mkdir()
  tables, *_ = _microlens(tmp_path / "raw")
  log = tmp_path / "log.jsonl"
  files = {"g0": "g1.jpg", "g1": "g1.jpg", "g2": "../x.jpg"}
  dirty.write_jsonl(log, [{"id": i, "path": p} for i, p in files.items()])
  names = {"item": ("id",), "image": ("path",)}
  paths = open_table(log, names, required=tuple(names))
  raw = raw_data.Raw(*tables, image_folder[0], paths)
  work = _make(raw, tmp_path / "work")
  assert work.item_ids() == ["g0", "g1"]
  assert work.report["images"]["kept"] == 1
  first, second = work.items()
  assert first.image == second.image


def test_nothing_left_is_an_error_with_the_reasons(image_folder, tmp_path):
  (tmp_path / "raw").mkdir()
  tables, *_ = _microlens(tmp_path / "raw")
  raw = raw_data.Raw(*tables, image_folder[0])
  with pytest.raises(UserError, match=r"(?s)nothing is left.*k_core: "):
    _make(raw, tmp_path / "work", k_core=9)


MOVIES = pathlib.Path(__file__).parents[3] / "shared/data/ml-latest-small"


@pytest.mark.skipif(not MOVIES.is_dir(), reason="MovieLens is not there")
def test_movielens_counts_are_those_of_plain_python(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  Image.new("RGB", (8, 12), "teal").save(tmp_path / "poster.jpg")
  with (MOVIES / "movies.csv").open(newline="") as file:
    titles = {row["movieId"]: row["title"] for row in csv.DictReader(file)}
  with_image = [item for n, item in enumerate(titles) if n % 10]
  for item in with_image:
    (folder / f"{item}.jpg").hardlink_to(tmp_path / "poster.jpg")
  (folder / f"{with_image[0]}.jpg").unlink()
  (folder / f"{with_image[0]}.jpg").write_bytes(b"")

  with (MOVIES / "ratings.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  rated = [row for row in rows if float(row["rating"]) >= 4]
  events = {}
  for row in rated:
    pair, time = (row["userId"], row["movieId"]), int(row["timestamp"])
    events[pair] = min(time, events.get(pair, time))
  single = len(events)
  usable = set(with_image[1:])
  bad = sum(item == with_image[0] for _, item in events)
  events = {pair: t for pair, t in events.items() if pair[1] in usable}
  with_image = len(events)
  while True:
    counts = collections.Counter(
      named for pair in events for named in zip("ui", pair, strict=True)
    )
    core = {
      (u, i): time
      for (u, i), time in events.items()
      if counts["u", u] >= 5 and counts["i", i] >= 5
    }
    if len(core) == len(events):
      break
    events = core

  raw = raw_data.Raw(*movielens.tables(MOVIES), folder)
  work = _make(raw, tmp_path / "work", processes=2, k_core=5)
  report = work.report
  assert report["rows"] == {
    "read": len(rows),
    "kept": len(core),
    "dropped": {
      "low_rating": len(rows) - len(rated),
      "no_image": single - with_image - bad,
      "bad_image": bad,
      "k_core": with_image - len(core),
    },
  }
  users = sorted({user for user, _ in core})
  assert (report["users"], report["items"]) == (
    len(users),
    len({item for _, item in core}),
  )
  assert report["windows"] == {
    "train": len(core) - 3 * len(users),
    "validation": len(users),
    "test": len(users),
  }
  ordered = sorted((u, 1000 * time, i) for (u, i), time in core.items())
  assert ordered == [
    (history.user, int(time), item)
    for history, _ in work.histories()
    for time, item in zip(history.timestamps, history.items, strict=True)
  ]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
  """Images of six items."""
  folder = tmp_path_factory.mktemp("few")
  for item in "abcdef":
    Image.new("RGB", (8, 8), "teal").save(folder / f"{item}.png")
  return folder


@settings(
  max_examples=12,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  events=strategies.lists(
    strategies.tuples(
      strategies.sampled_from(("u", "v", "10", "9")),
      strategies.sampled_from("abcdefg"),
      strategies.integers(0, 3),
    ),
    min_size=1,
    max_size=40,
  ),
  horizon=strategies.integers(1, 3),
)
def test_splits_never_leak(events, horizon, few, tmp_path):
  for name, header, rows in (
    ("events.csv", ("user", "item", "timestamp"), events),
    ("items.csv", ("item", "title"), [(item, item) for item in "abcdefg"]),
  ):
    dirty.write_csv(tmp_path / name, header, rows)
  names = {name: name for name in ("user", "item", "timestamp", "title")}
  tables = generic.tables(tmp_path, "events.csv", "items.csv", names)
  raw = raw_data.Raw(*tables, few)
  expected = {}
  for user, item, time in events:
    if item != "g":
      pair = expected.setdefault(user, {})
      pair[item] = min(time, pair.get(item, time))
  if not expected:
    return
  shutil.rmtree(tmp_path / "work", ignore_errors=True)
  work = _make(raw, tmp_path / "work", k_core=1, future_horizon=horizon)
  found = [history for history, _ in work.histories()]
  assert [history.user for history in found] == sorted(expected)
  for history in found:
    # Order: by time, then id; nothing is lost.
    pairs = [(1000 * t, i) for i, t in expected[history.user].items()]
    assert sorted(pairs) == list(
      zip(history.timestamps.tolist(), history.items, strict=True)
    )
    length = len(history.items)
    seen = {}
    for split in histories.SPLITS:
      first, stop, end = histories.target_ranges(split, length, history.splits)
      seen[split] = {n for t in range(first, stop) for n in range(t, end)}
    # What training sees is nobody's target, nor what comes after one.
    assert not seen["train"] & (seen["validation"] | seen["test"])
    assert not seen["validation"] & seen["test"]
    trained = max(seen["train"], default=0)
    assert trained < min(seen["validation"] | seen["test"], default=length)
    # Every event but the first is a target or in the future of one.
    assert set.union(*seen.values()) == set(range(1, length))
    if length >= 3:
      size = min(horizon, (length - 1) // 2)
      assert seen["test"] == set(range(length - size, length))
      assert seen["validation"] == set(range(length - 2 * size, length - size))
