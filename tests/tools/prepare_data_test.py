"""The tool from end to end: one command, stopped, repeated, refused."""

import filecmp
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from PIL import Image
import pytest

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import windows
from genrec_jax.ingest import reasons
from genrec_jax.ingest import report as report_lib
from tests.ingest import dirty
from tests.tools.process import own_words

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = ("--k_core=2", "--image_size=32", "--memory_gb=0.5", "--processes=1")


def _command(*flags):
  return [sys.executable, str(ROOT / "tools/prepare_data.py"), *flags]


def _run(*flags):
  return subprocess.run(
    _command(*flags), capture_output=True, text=True, check=False
  )


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp("raw")
  dirty.write_images(folder / "images")
  rows = dirty.events() + dirty.rated()
  header = ("userId", "movieId", "rating", "timestamp")
  dirty.write_csv(folder / "ratings.csv", header, [row[:4] for row in rows])
  titles = [(item, title, "") for item, title in dirty.TITLES.items()]
  dirty.write_csv(folder / "movies.csv", ("movieId", "title", "genres"), titles)
  # Enough images to be stopped among them.
  for number in range(400):
    name = f"m{number}"
    Image.new("RGB", (400, 300), (number % 256, 90, 30)).save(
      folder / f"images/{name}.png"
    )
  with (folder / "movies.csv").open("a") as file:
    file.writelines(f"m{n},Film {n},\r\n" for n in range(400))
  with (folder / "ratings.csv").open("a") as file:
    file.writelines(
      f"v{user},m{n},5,{dirty.SECOND + n}\r\n"
      for n in range(400)
      for user in range(2)
    )
  return folder


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
  """Runs the tool; returns the data set and what it printed."""
  out = tmp_path_factory.mktemp("out") / "data"
  done = _run("--dataset=movielens", f"--raw={raw}", f"--out={out}", *FLAGS)
  assert done.returncode == 0, done.stderr
  return out, done


def _files(root):
  return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())


def test_a_data_set_with_its_report(prepared):
  out, done = prepared
  assert not own_words(done.stderr)
  assert os.listdir(out.parent) == ["data"]  # no work is left
  dataset = dataset_lib.load(out)
  assert len(dataset.items) == len(dirty.GOOD) + 400
  assert len(dataset.users) == 6
  report = json.loads((out / "import_report.json").read_text())
  rows = report["rows"]
  assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
  assert list(report)[:6] == [
    *("rows", "images", "users", "items", "events", "windows")
  ]
  assert report["crop"]["images"] == report["items"] == len(dataset.items)
  assert "Images cropped" in done.stdout
  for split, number in report["windows"].items():
    found = windows.find_windows(dataset, split, windows.WindowSpec(20, 3))
    assert len(found) == number
  assert f"{rows['read']:,}" in done.stdout
  for part in ("rows", "titles", "images"):
    for reason in report[part]["dropped"]:
      words = reason.replace("_", " ").replace("k core", "k-core")
      assert words in done.stdout
  assert max(map(len, report_lib.table(report).splitlines())) <= 80
  assert report["warnings"] == []
  for line in (
    r"Events at equal times +\d+  1\.8% of neighbours; ordered by item id",
    r"Users of one day +6  all within 24 hours",
    r"First event +2017-07-14  2017-07-14T02:40:00Z",
    r"Last event +2017-07-14  2017-07-14T02:46:39Z",
  ):
    assert re.search(line, done.stdout), (line, done.stdout)
  page = (out / "import_report.html").read_text()
  assert page.count('<img src="data:image/jpeg') == 24
  assert "http://example.org/1" in page
  # Nothing is fetched, and no title or path becomes markup.
  assert not {"<script", 'src="http', "@import"} & set(page.split())
  assert "<b>Bold" not in page
  assert "Events are from 2017-07-14T02:40:00Z to" in page


def test_stopped_and_repeated_gives_the_same_bytes(raw, prepared, tmp_path):
  out = tmp_path / "data"
  flags = ("--dataset=movielens", f"--raw={raw}", f"--out={out}", *FLAGS)
  started = subprocess.Popen(_command(*flags))
  chunk = tmp_path / ".data.work/images/000000.json"
  while not chunk.exists():
    assert started.poll() is None
    time.sleep(0.005)
  started.send_signal(signal.SIGKILL)
  started.wait()
  assert not out.exists()
  before = chunk.stat().st_mtime_ns
  assert not (tmp_path / ".data.work/images/000003.json").exists()
  # With more processes, too.
  done = _run(*flags, "--processes=2")
  assert done.returncode == 0, done.stderr
  assert before  # the chunk went with the work folder
  files = _files(out)
  assert files == _files(prepared[0])
  _, different, errors = filecmp.cmpfiles(
    out, prepared[0], files, shallow=False
  )
  assert (different, errors) == ([], [])


def test_a_data_set_that_is_there_is_kept_or_refused(raw, prepared):
  out, _ = prepared
  before = {file: (out / file).stat().st_mtime_ns for file in _files(out)}
  flags = ("--dataset=movielens", f"--raw={raw}", f"--out={out}", *FLAGS)
  done = _run(*flags)
  assert done.returncode == 0, done.stderr
  assert "there already" in done.stdout
  refused = _run(*flags, "--k_core=3")
  assert refused.returncode == 1
  assert "k_core: 2 there, 3 asked for" in refused.stderr
  after = {file: (out / file).stat().st_mtime_ns for file in _files(out)}
  assert before == after


def test_invalid_flags_are_listed(raw, tmp_path):
  done = _run(
    "--dataset=movielens",
    f"--raw={tmp_path / 'absent'}",
    f"--out={tmp_path / 'out'}",
    "--user_column=x",
    "--min_rating=nan",
  )
  assert done.returncode == 1
  assert "Traceback" not in done.stderr
  assert "absent: expected a folder" in done.stderr
  assert "--min_rating=nan: expected a number" in done.stderr
  assert "--user_column: only for --dataset=generic" in done.stderr
  done = _run("--dataset=amazon", f"--raw={raw}", f"--out={tmp_path / 'out'}")
  assert done.returncode == 1
  assert "holds 0 categories of Amazon Reviews 2023" in done.stderr
  archive = tmp_path / "archive.zip"
  archive.write_bytes(b"")
  for flags, message in (
    ((f"--raw={archive}",), "is a file: expected a folder"),
    ((f"--raw={raw}", f"--images={archive}"), "is a file: expected a folder"),
    ((f"--raw={raw}", f"--image_list={raw / 'images'}"), "images is a folder"),
  ):
    done = _run("--dataset=movielens", *flags, f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
  assert list(tmp_path.iterdir()) == [archive]


def test_warnings_stand_apart_and_on_the_page(tmp_path):
  raw, out = tmp_path / "[raw]*", tmp_path / "what? [out]"
  (raw / "images").mkdir(parents=True)
  for name in ("1", "cover-2", "cover-3"):
    Image.new("RGB", (9, 9)).save(raw / f"images/{name}.png")
  (raw / "e.csv").write_text("user,item,timestamp\nu,1,1500000000\n")
  (raw / "t.csv").write_text("item,title\n1,One\n2,Two\n3,Three\n")
  flags = ("--interactions=e.csv", "--titles=t.csv", "--k_core=1")
  flags += ("--dataset=generic", f"--raw={raw}", f"--out={out}", FLAGS[2])
  done = _run(*flags)
  assert done.returncode == 0, done.stderr
  (warning,) = done.stderr.splitlines()
  assert warning.startswith("WARNING: 2 of 3 files in ")
  assert "differ by what comes before the id" in warning
  page = (out / "import_report.html").read_text()
  assert "<b>Warning</b>: 2 of 3 files in " in page
  assert os.listdir(out.parent).count(out.name) == 1
  assert len(list(tmp_path.iterdir())) == 2  # no work is left
  assert not (out / "downloads").exists()
  # Again, and of a report that an earlier version wrote.
  assert _run(*flags).stderr == done.stderr
  report = json.loads((out / "import_report.json").read_text())
  del report["warnings"], report["times"]
  (out / "import_report.json").write_text(json.dumps(report))
  done = _run(*flags)
  assert (done.returncode, done.stderr) == (0, "")
  assert dataset_lib.load(out).users[0]["id"] == b"u"


def test_nothing_that_is_there_is_touched(raw, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  (other / "mine.txt").write_text("")
  for out, message in (
    (other, "holds something that is no data set"),
    (raw / "images" / "data", "is within the images folder"),
    (other / "mine.txt" / "data", "cannot write next to it"),
  ):
    done = _run("--dataset=movielens", f"--raw={raw}", f"--out={out}")
    assert done.returncode == 1
    assert message in done.stderr
    assert not re.search("Traceback|[Dd]elete", done.stderr)
  assert _files(other) == [pathlib.Path("mine.txt")]
  assert not list(raw.rglob("*data*"))


def test_every_reason_is_documented():
  text = (ROOT / "docs/data.md").read_text()
  for reason in (*reasons.ROWS, *reasons.FILES):
    assert f"`{reason}`" in text, reason
