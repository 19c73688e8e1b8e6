import io
import itertools
import json

import numpy as np
from PIL import Image
import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.evals import kept_images
from genrec_jax.study import folder, make, texts
from tests.study.made import ATTACK, ROWS, make_study, write_images


def contents(path):
  return {p.relative_to(path): p.read_bytes() for p in path.rglob("*.*")}


def test_the_served_folder_tells_no_rows_and_no_users(study):
  site = study.path / "site"
  assert sorted(p.name for p in study.path.iterdir()) == [
    "key.json",
    "site",
    "study.json",
  ]
  text = (site / "tasks.json").read_text()
  for word in (*ROWS, "check", "repeat", "known", "own", '"u1"', "u11"):
    assert word not in text.replace("shown", "").replace("taste", ""), word
  names = {p.stem for p in (site / "images").iterdir()}
  assert all(len(name) == 20 and int(name, 16) >= 0 for name in names)


def test_images_are_named_by_their_pixels_and_carry_nothing_else(study):
  for path in (study.path / "site/images").iterdir():
    with Image.open(path) as image:
      image.load()
      assert not image.info
      assert not image.getexif()
      assert image.size == (32, 32)


def test_large_images_are_alike_jpegs_without_exif():
  from genrec_jax.study import site_files
  from genrec_jax.study.design import Shown

  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(80, 80, 3), dtype=np.uint8)
  found = site_files.encode_images({Shown("rl", 0): image})
  name, data = found[Shown("rl", 0)]
  assert name.endswith(".jpg")
  with Image.open(io.BytesIO(data)) as opened:
    assert not opened.getexif()
    assert "exif" not in opened.info


def image_of(study, name):
  return np.asarray(Image.open(study.path / "site" / name))


def test_tasks_show_what_the_key_says(study):
  users = {
    user.name: user for user in kept_images.read(str(study.path.parent / "run"))
  }
  histories = study.tasks["histories"]
  for block in study.tasks["blocks"]:
    for task in block:
      entry = study.key[task["id"]]
      user = users[entry["user"]]
      shown = histories[task["history"]]
      for item, image in zip(shown, user.history, strict=True):
        np.testing.assert_array_equal(image_of(study, item["image"]), image)
      assert [item["title"] for item in shown] == ["", ATTACK, "", ATTACK, ""]
      if entry["kind"] == "check":
        liked = {item["image"] for item in shown}
        assert task[entry["known"]] in liked
        assert {task["left"], task["right"]} - liked
      else:
        for side in ("left", "right"):
          np.testing.assert_array_equal(
            image_of(study, task[side]), user.images[entry[side]]
          )


def test_checks_may_show_a_row_s_image_for_somebody_else(tmp_path):
  study = make_study(tmp_path, checks="rl")
  users = kept_images.read(str(tmp_path / "run"))[:12]
  checks = 0
  for block in study.tasks["blocks"]:
    for task in block:
      entry = study.key[task["id"]]
      if entry["kind"] == "check":
        checks += 1
        images = {user.name: user.images["rl"] for user in users}
        own = images.pop(entry["user"])
        known, other = (
          image_of(study, task[side])
          for side in sorted(("left", "right"), key=entry["known"].__ne__)
        )
        np.testing.assert_array_equal(known, own)
        assert any((other == image).all() for image in images.values())
  assert checks == 5 * len(study.tasks["blocks"])
  # As in all studies, practice is out of a history.
  practice = study.tasks["practice"]
  liked = study.tasks["histories"][practice["history"]]
  assert practice["right"] in {item["image"] for item in liked}
  options = make.Options(rows=ROWS, checks="x")
  with pytest.raises(UserError, match="--checks=x: expected history or one of"):
    make.make(str(tmp_path / "run"), str(tmp_path / "no"), options)


def test_what_others_liked_is_as_unlike_as_it_can_be():
  """A check's other image is far from all that is shown, and never the user."""
  shades = [[0, 10], [5, 20], [250, 240], [245, 235]]
  histories = [
    [np.full((8, 8, 3), value, np.uint8) for value in values]
    for values in shades
  ]
  for images in (
    make._of_history(histories),
    [{make.Shown("rl", u): own[0]} for u, own in enumerate(histories)],
  ):
    checks = make._checks(histories, images, seed=0)
    assert [check.own.user for check in checks] == [0, 1, 2, 3]
    assert [check.other.user // 2 for check in checks] == [1, 1, 0, 0]


def test_the_practice_pair_is_of_nobody_in_the_study(study):
  practice = study.tasks["practice"]
  used = {task["history"] for block in study.tasks["blocks"] for task in block}
  assert practice["history"] not in used
  liked, *others = (
    [item["image"] for item in study.tasks["histories"][name]]
    for name in (practice["history"], *used)
  )
  assert liked not in others  # under another name, say
  assert practice["right"] in liked
  assert practice["left"] not in liked


def test_the_page_names_no_address_and_has_a_policy(study):
  for path in (study.path / "site").glob("*.*"):
    text = path.read_text()
    if path.suffix != ".svg":  # its namespace looks like one
      assert "http:" not in text, path
      assert "https:" not in text, path
    assert "innerHTML" not in text
  page = (study.path / "site/index.html").read_text()
  assert "default-src 'none'; script-src 'self'" in page
  assert "connect-src 'self'; base-uri 'none'" in page.replace("&#39;", "'")


def test_the_same_seed_makes_the_same_study(tmp_path):
  for name in ("a", "b", "c"):
    (tmp_path / name).mkdir()
  one, other = make_study(tmp_path / "a"), make_study(tmp_path / "b")
  assert contents(one.path) == contents(other.path)
  another = make_study(tmp_path / "c", seed=2)
  assert another.id != one.id
  assert not study_ids(another) & study_ids(one)


def study_ids(study):
  return set(study.key) | set(study.tasks["histories"])


def test_another_address_is_all_that_the_policy_adds(tmp_path):
  study = make_study(tmp_path, collect="https://lab.example:8443/votes?a=1")
  page = (study.path / "site/index.html").read_text()
  assert "connect-src &#39;self&#39; https://lab.example:8443;" in page
  assert study.tasks["collect"] == "https://lab.example:8443/votes?a=1"


@pytest.mark.parametrize(
  "address",
  ["votes2", "ftp://a/b", "https://", "https://a; script-src *", "https://a'b"],
)
def test_what_is_no_address_is_refused(address, tmp_path):
  with pytest.raises(UserError, match="--send_to"):
    make_study(tmp_path, collect=address)
  assert not (tmp_path / "study").exists()


def test_a_title_is_never_html(tmp_path):
  wording = texts.Texts(title=f"</title>{ATTACK}")
  study = make_study(tmp_path, wording=wording)
  page = (study.path / "site/index.html").read_text()
  assert "&lt;/title&gt;&lt;img" in page
  assert ATTACK not in page


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (("rl",), "two or more"),
    (("rl", "rl"), "different"),
    (("rl", "ppo"), "ppo: no images"),
  ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, said, tmp_path):
  with pytest.raises(UserError, match=said):
    make_study(tmp_path, rows=rows)


def test_a_workdir_without_images_is_refused(tmp_path):
  options = make.Options(rows=ROWS)
  with pytest.raises(UserError, match=r"images\.parquet"):
    make.make(str(tmp_path), str(tmp_path / "study"), options)


def test_all_kept_users_may_be_asked_for(tmp_path):
  workdir = write_images(tmp_path / "run", users=5)
  study = make.make(
    workdir, str(tmp_path / "study"), make.Options(rows=ROWS, users=60)
  )
  assert study.record["users"] == [f"u{i}" for i in range(5)]


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("study.json", lambda x: x["rules"].update(checks_missed_at_most=5)),
    ("key.json", lambda x: next(iter(x.values())).update(left="rl")),
    ("site/tasks.json", lambda x: x["blocks"][0].pop()),
    ("site/tasks.json", lambda x: x.pop("study")),
  ],
)
def test_what_was_fixed_cannot_be_changed(name, change, tmp_path):
  study = make_study(tmp_path)
  path = study.path / name
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))
  with pytest.raises(UserError, match="changed since"):
    folder.open_study(str(study.path))


def test_other_users_images_are_unlike_the_history(study):
  """Each is further from it than what others of the history are from it."""
  for block, task in itertools.product(study.tasks["blocks"], range(25)):
    if task >= len(block):
      continue
    entry = study.key[block[task]["id"]]
    if entry["kind"] == "check":
      shown = study.tasks["histories"][block[task]["history"]]
      liked = [image_of(study, x["image"]).astype(int) for x in shown]
      side = {"left": "right", "right": "left"}[entry["known"]]
      other = image_of(study, block[task][side]).astype(int)
      nearest = min(np.abs(other - image).mean() for image in liked)
      within = np.abs(liked[0] - liked[1]).mean()
      assert nearest > 0.5 * within
