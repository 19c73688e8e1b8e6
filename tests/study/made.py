"""Small studies for tests, without a model: images of the synthetic world."""

from types import SimpleNamespace

import numpy as np

from genrec_jax.data import world, world_users
from genrec_jax.evals import kept_images
from genrec_jax.study import make

ROWS = ("rl", "sft", "content_knn", "real_next_item")
HISTORY = 5
ATTACK = "<img src=x onerror=alert(1)>"


def write_images(workdir, users=13, titles=("", ATTACK)):
  """Writes a workdir's images.parquet: users of the world, rows by chance."""
  events = world_users.simulate(users, HISTORY + 1, seed=3)
  images = world.render(world.attributes(events.items))  # [U, N + 1, h, w, 3]
  held = SimpleNamespace(
    count=users,
    names=tuple(f"u{i}" for i in range(users)),
    batch=SimpleNamespace(
      history=images[:, :HISTORY], history_mask=np.ones((users, HISTORY), bool)
    ),
    history_titles=tuple(
      tuple(titles[i % len(titles)] for i in range(HISTORY))
      for _ in range(users)
    ),
  )
  rng = np.random.default_rng(0)
  rows = {
    row: world.render(
      world.attributes(rng.integers(world.NUM_ITEMS, size=users))
    )
    for row in ROWS[:-1]
  }
  shown = rows | {ROWS[-1]: images[:, HISTORY]}
  workdir.mkdir(exist_ok=True)
  kept_images.write(str(workdir), [held], shown)
  return str(workdir)


def make_study(folder, users=12, **options):
  """Makes a study in a folder, of a workdir next to it."""
  workdir = write_images(folder / "run", users=users + 1)
  given = {"rows": ROWS, "users": users, "seed": 1} | options
  return make.make(workdir, str(folder / "study"), make.Options(**given))
