import numpy as np
from PIL import Image

from genrec_jax.data import world
from tests.tools.process import run_tool

MOVIES = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation
2,"Heat, The (2013)",Action
3,Unknown,(no genres listed)
"""


def test_posters_show_genres_and_decades(tmp_path):
  (tmp_path / "movies.csv").write_text(MOVIES, encoding="utf-8")
  for name in ("a", "b"):
    status, printed, errors = run_tool(
      "make_posters.py", f"--raw={tmp_path}", f"--out={tmp_path / name}"
    )
    assert status == 0, errors
    assert printed.startswith("3 stand-ins for posters in ")
  seen = []
  for number in (1, 2, 3):
    images = [
      np.asarray(Image.open(tmp_path / name / f"{number}.png"))
      for name in ("a", "b")
    ]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (64, 64, 3)
    seen.append(world.read(images[0][None])[0].tolist())
  # The second genre of 19 is Adventure, the third Animation; 199 = 3 mod 4.
  assert seen[0][:3] == [1, 2, 3]
  assert seen[1][:3] == [0, 0, 1]
  assert seen[0] != seen[2]


def test_another_folder_is_refused(tmp_path):
  out = tmp_path / "out"
  args = (f"--raw={tmp_path}", f"--out={out}")
  status, _, errors = run_tool("make_posters.py", *args)
  assert (status, errors.splitlines()[1:]) == (1, [])
  assert "no movies.csv" in errors
  (tmp_path / "movies.csv").write_text("id,name\n1,x\n")
  status, _, errors = run_tool("make_posters.py", *args)
  assert status == 1
  assert "has no column genres, movieId, title" in errors
  assert not out.exists()
