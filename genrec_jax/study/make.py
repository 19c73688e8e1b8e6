"""Makes the folder of a study from the workdir of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from genrec_jax.core import files
from genrec_jax.core.errors import UserError, listed
from genrec_jax.evals import kept_images
from genrec_jax.evals.kept_images import HISTORY, KeptUser
from genrec_jax.study import design, folder, site_files, texts
from genrec_jax.study.design import Check, Shown
from genrec_jax.study.exclusions import Rules

OWN_SERVER = "votes"  # where the page sends votes that `serve` takes
_THUMBNAIL = 8  # pixels a side, to tell how much two images differ
_LEAST_HISTORY = 2


class Options(NamedTuple):
  """What a study shows and where its votes go."""

  rows: tuple[str, ...]  # two or more of the table's
  users: int = 60  # at most
  seed: int = 0  # of everything random
  # The row whose image for somebody else an attention check shows, against its
  # image for the user; or what they themselves liked.
  checks: str = HISTORY
  collect: str = OWN_SERVER  # or an address, or '' to save votes as a file
  wording: texts.Texts = texts.Texts()


def make(workdir: str, out: str, options: Options) -> folder.Study:
  """Writes a study; `folder` says what is in it.

  Args:
    workdir: of a finished run or evaluation.
    out: absent or empty.
    options: see `Options`.

  Raises:
    UserError: rows or images that are missing, an address that is none, or a
      folder that is not empty.
  """
  files.check_unused(out)
  origin = _origin(options.collect)
  shown, practised = _users(kept_images.read(workdir), workdir, options)
  people = [*shown, practised]  # the last one is for the practice pair
  images = site_files.encode_images(
    {
      Shown(row, u): user.images[row]
      for u, user in enumerate(shown)
      for row in options.rows
    }
    | {
      Shown(HISTORY, u, place): image
      for u, user in enumerate(people)
      for place, image in enumerate(user.history)
    }
  )
  names = {place: name for place, (name, _) in images.items()}
  histories = [user.history for user in people]
  checks = _checks(histories, _of_history(histories), options.seed)
  practice = checks.pop()  # nobody is tested on it
  if options.checks != HISTORY:
    # Of users in the study only: other rows have no image of the practice's.
    shown_by_row = [
      {Shown(options.checks, u): user.images[options.checks]}
      for u, user in enumerate(shown)
    ]
    checks = _checks(histories[:-1], shown_by_row, options.seed)
  plan = design.blocks(options.rows, checks, options.seed)
  users = [user.name for user in shown]
  blocks, key = site_files.blocks_and_key(plan, names, users, options.seed)
  record = {
    "rows": options.rows,
    "users": users,
    "seed": options.seed,
    "checks": options.checks,
    # As they are now: later versions of this program may have others.
    "rules": Rules()._asdict(),
    "tasks_sha256": folder.digest(blocks),
    "key_sha256": folder.digest(key),
  }
  tasks = _page(options, people, names, practice) | {"blocks": blocks}
  with files.new_folder(out) as part:
    tasks["study"] = folder.write(part, record, key)
    site_files.write(part / folder.SITE, tasks, images, origin)
  return folder.open_study(out)


def _page(
  options: Options,
  people: Sequence[KeptUser],
  names: Mapping[Shown, str],
  practice: Check,
) -> dict[str, Any]:
  """Returns what the page shows besides the blocks.

  Args:
    options: see `Options`.
    people: the users, and at the end the one of the practice pair.
    names: of the image files.
    practice: the practice pair, whose right image is the known answer.
  """
  histories = {
    site_files.history_id(options.seed, u): [
      {"image": names[Shown(HISTORY, u, place)], "title": title}
      for place, title in enumerate(user.titles)
    ]
    for u, user in enumerate(people)
  }
  return {
    **options.wording._asdict(),
    "questions": texts.QUESTIONS,
    "collect": options.collect,
    # Enlarged pixel by pixel: smoothing would be part of what is judged.
    "pixelated": max(people[0].history[0].shape[:2]) <= site_files.TINY_SIDE,
    "histories": histories,
    "practice": {
      "history": site_files.history_id(options.seed, len(people) - 1),
      "left": names[practice.other],
      "right": names[practice.own],
    },
  }


def _users(
  kept: Sequence[KeptUser], workdir: str, options: Options
) -> tuple[list[KeptUser], KeptUser]:
  """Returns the users of a study, and one more for the practice pair."""
  rows = options.rows
  if len(set(rows)) < max(len(rows), 2):
    raise UserError(
      f"--rows={','.join(rows)}: expected two or more different rows"
    )
  there = list(dict.fromkeys(row for user in kept for row in user.images))
  if options.checks not in (HISTORY, *rows):
    raise UserError(
      f"--checks={options.checks}: expected {HISTORY} or one of --rows,"
      f" {', '.join(rows)}"
    )
  absent = [f"{row}: no images" for row in rows if row not in there]
  if absent:
    raise UserError(
      listed(
        f"{workdir} keeps images of {', '.join(there)}; choose --rows of them:",
        absent,
      )
    )
  # One image says little of a taste, and rows may lack users.
  fit = [
    user
    for user in kept
    if len(user.history) >= _LEAST_HISTORY
    and all(row in user.images for row in rows)
  ]
  if len(fit) < 2:
    raise UserError(
      f"{workdir}: {len(fit)} users have images of all rows and"
      f" {_LEAST_HISTORY} or more images of history; expected two or more:"
      " evaluate more users, with eval.users and eval.keep_images"
    )
  # Nobody's answers to the practice pair should bear on a pair that counts.
  spare = fit[options.users] if len(fit) > options.users else fit[-1]
  return fit[: options.users], spare


def _of_history(
  histories: Sequence[Sequence[np.ndarray]],
) -> list[dict[Shown, np.ndarray]]:
  """Returns the images that each user liked."""
  return [
    {Shown(HISTORY, u, p): image for p, image in enumerate(history)}
    for u, history in enumerate(histories)
  ]


def _checks(
  histories: Sequence[Sequence[np.ndarray]],
  images: Sequence[Mapping[Shown, np.ndarray]],
  seed: int,
) -> list[Check]:
  """Returns an attention check for each user.

  One image is one of the user's own. The other is one of somebody else's, and
  of those whose nearest in the history shown is furthest, so that the answer is
  not a matter of taste.

  Args:
    histories: what each user liked, which is shown.
    images: of each user, what checks are made of.
    seed: of the choice.
  """
  places = [shown for own in images for shown in own]  # N
  small = np.stack([_small(image) for own in images for image in own.values()])
  owner = np.asarray([shown.user for shown in places])  # [N]
  rng = np.random.default_rng(seed)
  found = []
  for user, history in enumerate(histories):
    liked = np.stack([_small(image) for image in history])  # [n, D]
    nearest = np.abs(small[:, None] - liked).mean(-1).min(-1)  # [N]
    nearest[owner == user] = -1  # never the user's own
    own = list(images[user])[int(rng.integers(len(images[user])))]
    # Not the furthest: one odd image would be in all checks, and known.
    far = np.argsort(-nearest)[: max(len(places) // 10, 1)]
    found.append(Check(own, places[int(rng.choice(far))]))
  return found


def _small(image: np.ndarray) -> np.ndarray:
  """Returns an image uint8 [h, w, 3] as few numbers: float [D]."""
  side = (_THUMBNAIL, _THUMBNAIL)
  small = Image.fromarray(image).resize(side, Image.Resampling.BOX)
  return np.asarray(small, np.float64).reshape(-1)


def _origin(collect: str) -> str:
  """Returns the origin of an address that votes go to; '' for no other's.

  Raises:
    UserError: not an address.
  """
  if collect in ("", OWN_SERVER):
    return ""
  parts = urlsplit(collect)
  # It goes into the page's policy, where these would end it.
  plain = not set(" ;,'\"@") & set(collect)
  if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
    raise UserError(
      f"--send_to={collect}: expected server, file, or an address such as"
      " https://lab.example/votes"
    )
  return f"{parts.scheme}://{parts.netloc}"
