"""Raw data are opened by the name of the data set, or refused in words."""

import pytest

from genrec_jax.core.errors import UserError
from genrec_jax.ingest import raw_data


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
  (tmp_path / "movies.csv").write_text("movieId,title\n")
  (tmp_path / "posters").mkdir()
  (tmp_path / "posters/1.jpg").write_bytes(b"12345")
  (tmp_path / "posters/link.jpg").symlink_to("1.jpg")
  return tmp_path


def test_images_are_found_where_the_data_set_has_them(folder):
  raw = raw_data.open_raw("movielens", folder)
  assert raw.images == folder / "posters"
  assert [file.path for file in raw.files] == ["1.jpg", "link.jpg"]
  assert (raw.paths, raw.other_ids) == (None, None)
  (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n")
  (folder / "images").mkdir()  # comes first
  raw = raw_data.open_raw("movielens", folder)
  assert raw.images == folder / "images"
  assert raw.other_ids.roles["tmdbId"] == "tmdbId"


def test_the_settings_change_with_the_files(folder):
  chosen = {
    "dataset": "movielens",
    "min_rating": 4.0,
    "k_core": 5,
    "future_horizon": 1,
    "image_size": 32,
  }
  raw = raw_data.open_raw("movielens", folder)
  settings = raw_data.settings(raw, **chosen)
  assert settings == {
    **chosen,
    "raw": {"ratings.csv": 32, "movies.csv": 14},
    "images": [1, 5],  # a link is never opened
  }
  stamps = list(raw.stamps())
  (folder / "posters/1.jpg").write_bytes(b"123456")
  (folder / "movies.csv").write_text("movieId,title\n1,One\n")
  raw = raw_data.open_raw("movielens", folder)
  changed = raw_data.settings(raw, **chosen)
  assert changed["images"] == [1, 6]
  assert changed["raw"]["movies.csv"] == 20
  assert list(raw.stamps()) != stamps


def test_an_image_list_is_a_table_of_its_own(folder):
  path = folder / "log.csv"
  path.write_text("movie_id,filename\n1,a.jpg\n")
  raw = raw_data.open_raw("movielens", folder, image_list=path)
  assert raw.paths.roles == {"item": "movie_id", "image": "filename"}
  path.write_text("movie_id,url\n")
  with pytest.raises(UserError, match=r"no column for image .*Rename them"):
    raw_data.open_raw("movielens", folder, image_list=path)


def test_images_that_are_no_folder_are_refused(folder):
  with pytest.raises(UserError, match=r"no images folder .*absent: give one"):
    raw_data.open_raw("movielens", folder, images=folder / "absent")
  with pytest.raises(UserError, match=r"movies\.csv is a file: expected a fo"):
    raw_data.open_raw("movielens", folder, images=folder / "movies.csv")
