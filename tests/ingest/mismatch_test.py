"""Images of the wrong items, and nothing left: said so, with the cause."""

import os

from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.ingest import (
  image_store,
  job,
  raw_data,
  statistics,
  work_folder,
)
from genrec_jax.ingest.readers import generic, movielens

SECOND = 1_500_000_000
NAMES = {name: name for name in ("user", "item", "timestamp", "title")}
# Film, imdbId, tmdbId: by accident the ids of half of the films elsewhere are
# films here.
FILMS = [
  (n, f"{n + 114709:07d}", n * 2 if n <= 20 else 9000 + n) for n in range(1, 41)
]


def _write(path, header, rows):
  lines = [",".join(map(str, row)) for row in (header, *rows)]
  path.write_text("\n".join(lines) + "\n")


def _write_image(path, size=(9, 9), colour="red"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, colour).save(path)


def _make(raw, work, k_core=1):
  settings = raw_data.settings(
    raw,
    dataset="generic",
    min_rating=None,
    k_core=k_core,
    future_horizon=1,
    image_size=32,
  )
  return job.make(raw, work, settings, processes=1, memory_gb=0.5)


def _generic(tmp_path, rows, titles, names=NAMES):
  _write(tmp_path / "e.csv", ("user", "item", "timestamp"), rows)
  header = ("item", "title", "image")[: len(titles[0])]
  _write(tmp_path / "t.csv", header, titles)
  (tmp_path / "images").mkdir(exist_ok=True)
  tables = generic.tables(tmp_path, "e.csv", "t.csv", names)
  return raw_data.Raw(*tables, tmp_path / "images")


def _movies(tmp_path, names):
  rows = [(u, n, 5, SECOND + n) for u in (1, 2) for n, *_ in FILMS]
  header = ("userId", "movieId", "rating", "timestamp")
  _write(tmp_path / "ratings.csv", header, rows)
  titles = [(n, f"Film {n}", "x") for n, *_ in FILMS]
  _write(tmp_path / "movies.csv", ("movieId", "title", "genres"), titles)
  _write(tmp_path / "links.csv", ("movieId", "imdbId", "tmdbId"), FILMS)
  for name in names:
    _write_image(tmp_path / f"images/{name}.png")
  return raw_data.Raw(
    *movielens.tables(tmp_path),
    tmp_path / "images",
    other_ids=movielens.other_ids(tmp_path),
  )


@pytest.mark.parametrize(
  ("kind", "form"),
  [
    ("tmdbId", "{2}"),
    ("imdbId", "tt{1}"),
    ("imdbId", "{1}"),
    ("imdbId", "TT{1}"),
  ],
)
def test_posters_named_by_another_id_are_refused(kind, form, tmp_path):
  raw = _movies(tmp_path, [form.format(*film) for film in FILMS])
  with pytest.raises(UserError) as error:
    _make(raw, tmp_path / "work")
  text = str(error.value)
  assert f"named by {kind}, not by movieId: 40 of 40 names" in text
  assert "--image_list" in text
  if kind == "tmdbId":  # an example of a film that would get another's poster
    assert "2.png is 'Film 1', item 1; item 2 is 'Film 2'" in text
  else:
    assert "is 'Film 1', item 1" in text


@pytest.mark.parametrize(
  "films",
  [FILMS, FILMS[:5], [f for f in FILMS if f[0] % 2], FILMS[20:]],
)
def test_posters_named_by_item_are_taken(films, tmp_path):
  names = [film[0] for film in films]
  # Of a larger edition, whose films this one does not have.
  raw = _movies(tmp_path, [*names, *range(9030, 9034)])
  report = _make(raw, tmp_path / "work").report
  assert report["images"]["kept"] == len(films)


def test_links_that_are_not_there_are_not_needed(tmp_path):
  assert movielens.other_ids(tmp_path) is None


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("{}", ""),
    ("00{}", "zeros at the beginning"),
    ("{}.0", "'.0' at the end"),
    ("{}.jpg", "a second suffix"),
    ("{}_large", "what follows the id"),
    ("poster-{}", "what comes before the id"),
    ("{}x", "Rename the files like the items"),
  ],
)
def test_most_files_match_no_item(name, words, tmp_path):
  rows = [("u", f"{n}a", SECOND + n) for n in range(1, 9)]
  raw = _generic(tmp_path, rows, [(i, f"Title {i}") for _, i, _ in rows])
  for place, (_, item, _) in enumerate(rows):
    _write_image(
      tmp_path / f"images/{name.format(item) if place else item}.png"
    )
  report = _make(raw, tmp_path / "work").report
  if not words:
    assert report["warnings"] == []
    return
  (warning,) = report["warnings"]
  assert warning.startswith("7 of 8 files in")
  assert words in warning
  assert repr(name.format("2a")) in warning
  assert "'1a'" in warning


def test_most_listed_paths_are_not_in_the_folder(tmp_path):
  rows = [("u", f"{n}", SECOND + n) for n in range(4)]
  titles = [(n, f"Title {n}", f"x/{n}.png" if n else "0.png") for n in range(4)]
  raw = _generic(tmp_path, rows, titles, NAMES | {"image": "image"})
  for n in range(4):
    _write_image(tmp_path / f"images/{n}.png")
  report = _make(raw, tmp_path / "work").report
  (warning,) = report["warnings"]
  assert warning.startswith("3 of 4 image paths are not in")
  assert "'x/1.png'" in warning
  assert "Only the folders differ" in warning


@pytest.mark.parametrize(
  ("rows", "titles", "files", "words"),
  [
    # Reason, first offender, likely cause.
    ("B1", "B1", "b1", ["no_image: 2, such as item B1", "case"]),
    ("B1", "b1", "B1", ["no_title: 2, such as item B1", "case"]),
    ("B1", "01", "B1", ["no_title: 2", "called 'B1'", "'01' in t.csv"]),
    ("B1", "B1", "", ["no_image: 2", "has no files", "(none)"]),
    ("B1", "B1", "B1", ["k_core: 2", "user u, item B1", "--k_core=5"]),
    ("", "B1", "B1", ["missing_item: 2", "'item' is empty"]),
  ],
)
def test_nothing_left_says_what_and_why(rows, titles, files, words, tmp_path):
  events = [(user, rows, SECOND) for user in "uv"]
  raw = _generic(tmp_path, events, [(titles, "Title")])
  if files:
    _write_image(tmp_path / f"images/{files}.png")
  with pytest.raises(UserError, match="nothing is left of") as error:
    _make(raw, tmp_path / "work", k_core=5)
  for word in words:
    assert word in str(error.value), str(error.value)


def test_nothing_left_of_paths_of_another_machine(tmp_path):
  events = [("u", n, SECOND) for n in range(3)]
  titles = [(n, "Title", f"C:\\shop\\{n}.png") for n in range(3)]
  raw = _generic(tmp_path, events, titles, NAMES | {"image": "image"})
  for n in range(3):
    _write_image(tmp_path / f"images/{n}.png")
  with pytest.raises(UserError) as error:
    _make(raw, tmp_path / "work")
  text = str(error.value)
  assert "image_outside_folder: 3, such as item 0: C:/shop/0.png" in text
  assert "Only the folders differ: list paths within images" in text


@pytest.mark.parametrize(
  "path",
  [
    *("sub\\p 1.png", "sub/p 1.png", ".\\sub\\p 1.png", "./sub//p 1.png"),
    *("sub/./p 1.png", ".//sub\\.\\p 1.png"),
  ],
)
def test_slashes_of_any_system(path, tmp_path):
  names = NAMES | {"image": "image"}
  raw = _generic(tmp_path, [("u", "i", SECOND)], [("i", "One", path)], names)
  _write_image(tmp_path / "images/sub/p 1.png")
  assert _make(raw, tmp_path / "work").report["images"]["kept"] == 1


def test_a_backslash_may_be_a_letter(tmp_path):
  names = NAMES | {"image": "image"}
  titles = [("i", "One", "a\\b.png"), ("j", "Two", "a\\..\\..\\c.png")]
  rows = [("u", "i", SECOND), ("u", "j", SECOND)]
  raw = _generic(tmp_path, rows, titles, names)
  _write_image(tmp_path / "images" / "a\\b.png")
  _write_image(tmp_path / "c.png")
  report = _make(raw, tmp_path / "work").report
  assert report["rows"]["dropped"] == {"image_outside_folder": 1}


# --- two files of one item ----------------------------------------------------


def test_of_two_files_the_larger_image_is_used(tmp_path):
  rows = [("u", item, SECOND) for item in "abcde"]
  raw = _generic(tmp_path, rows, [(item, item) for item in "abcde"])
  folder = tmp_path / "images"
  _write_image(folder / "large/a.png", (30, 20))
  _write_image(folder / "big/a.png", (10, 10))  # earlier in the alphabet
  (folder / "b.gif").write_bytes(b"")  # no image at all
  _write_image(folder / "b.png")
  # As many pixels: more bytes count.
  _write_image(folder / "c.bmp", (20, 20))
  _write_image(folder / "c.png", (20, 20))
  Image.new("RGB", (1, 3)).save(folder / "d.bmp")  # too small to be used
  _write_image(folder / "d.png", (9, 9))
  _write_image(folder / "e.bmp", (20, 20))  # more bytes, but fewer pixels
  _write_image(folder / "e.png", (40, 40))
  work = _make(raw, tmp_path / "work")
  report = work.report
  assert report["images"]["kept"] == 5
  assert report["images"]["dropped"] == {"second_file_of_item": 5}
  assert report["offenders"]["second_file_of_item"] == [
    "b.gif: used is b.png",
    "big/a.png: used is large/a.png",
    "c.png: used is c.bmp",
    "d.bmp: used is d.png",
    "e.bmp: used is e.png",
  ]
  store = image_store.Store(work.folder / work_folder.IMAGES)
  assert len(store) == 5


# --- lines, times, folders ----------------------------------------------------


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv", "e.txt", "ratings.dat"])
def test_malformed_rows_are_named_by_file_and_line(name, tmp_path):
  good = {
    "e.jsonl": '{"user": "%s", "item": "i", "timestamp": 1}',
    "e.csv": "%s,i,1",
    "e.txt": '"%s","i",1',
    "ratings.dat": "%s::i::5::1",
  }[name]
  first = [] if name in ("e.jsonl", "ratings.dat") else ["user,item,timestamp"]
  lines = [
    *first,
    good % "u",
    "",
    "first bad",
    good % "v",
    "",
    "",
    "second bad",
  ]
  if name == "e.txt":  # a row of two lines before it
    lines[1] = '"u\nv","i",1'
  (tmp_path / name).write_text("\r\n".join(lines))
  (tmp_path / "movies.dat").write_text("i::One::x\nbad film\n")
  _write(tmp_path / "t.csv", ("item", "title"), [("i", "One"), ("bad", "x,y")])
  _write_image(tmp_path / "images/i.png")
  if name == "ratings.dat":
    tables = movielens.tables(tmp_path)
    titles = ["line 2 of movies.dat: bad film"]
  else:
    tables = generic.tables(tmp_path, name, "t.csv", NAMES)
    titles = ["line 3 of t.csv: bad,x,y"]
  raw = raw_data.Raw(*tables, tmp_path / "images")
  offenders = _make(raw, tmp_path / "work").report["offenders"]
  start = len(first) + 3 + (name == "e.txt")
  assert offenders["malformed_row"] == [
    f"line {start} of {name}: first bad",
    f"line {start + 4} of {name}: second bad",
  ]
  assert offenders["malformed_title_row"] == titles


def test_rows_that_python_writes_and_json_does_not_know(tmp_path):
  (tmp_path / "e.jsonl").write_text(
    '{"user": "u", "item": "i", "timestamp": 1}\n'
    '{"user": "v", "item": "i", "timestamp": 1, "votes": NaN}\n'
  )
  _write(tmp_path / "t.csv", ("item", "title"), [("i", "One")])
  _write_image(tmp_path / "images/i.png")
  tables = generic.tables(tmp_path, "e.jsonl", "t.csv", NAMES)
  report = _make(
    raw_data.Raw(*tables, tmp_path / "images"), tmp_path / "w"
  ).report
  if report["rows"]["dropped"]:
    (text,) = report["offenders"]["malformed_row"]
    assert text.startswith('line 2 of e.jsonl: {"user": "v"')


@pytest.mark.parametrize(
  ("times", "words"),
  [
    ((SECOND, SECOND + 1, SECOND + 2), []),
    ((SECOND, SECOND, SECOND + 1), []),  # half: not above
    ((SECOND, SECOND, SECOND), ["100% of neighbouring events"]),
    ((20200102, 20200103, 20200104), ["from 1970-08-22T19:08:22Z"]),
    ((2019, 2020, 2020), ["from 1970-01-01T00:33:39Z"]),
  ],
)
def test_times_that_mean_little_are_warned_of(times, words, tmp_path):
  rows = [("u", item, time) for item, time in zip("abc", times, strict=True)]
  raw = _generic(tmp_path, rows, [(item, item) for item in "abc"])
  for item in "abc":
    _write_image(tmp_path / f"images/{item}.png")
  report = _make(raw, tmp_path / "work").report
  assert len(report["warnings"]) == len(words)
  for word, warning in zip(words, report["warnings"], strict=True):
    assert word in warning
  assert statistics.TIED == 0.5
  if times[0] == SECOND:
    assert report["times"]["first"] == "2017-07-14T02:40:00Z"
  assert report["users_of_one_day"] == 1


def test_folders_that_cannot_be_listed_are_said_to_be_so(tmp_path, monkeypatch):
  raw = _generic(tmp_path, [("u", "i", SECOND)], [("i", "One")])
  _write_image(tmp_path / "images/i.png")
  (tmp_path / "images/closed").mkdir()
  scan = os.scandir

  def refuse(path):
    if os.fspath(path).endswith("closed"):
      raise PermissionError(13, "Permission denied", path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", refuse)
  report = _make(raw, tmp_path / "work").report
  assert report["images"]["dropped"] == {"unreadable_folder": 1}
  assert report["offenders"]["unreadable_folder"] == ["closed/."]
