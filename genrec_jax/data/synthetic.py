"""The synthetic data set: items and users of a world whose truth is known."""

from collections.abc import Iterator
import functools
import io
import os
import pathlib
from typing import Any, ClassVar

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import (
  histories,
  records,
  tfds_writer,
  world,
  world_users,
)
from genrec_jax.data.prepare import prepare
from genrec_jax.runtime import distributed


class Synthetic(tfds_writer.Prepared, tfds.core.GeneratorBasedBuilder):
  """Items and users of a small world whose truth is known."""

  # The truth that only a simulation knows; evaluation uses it.
  EXTRA: ClassVar[dict[str, dict[str, Any]]] = {
    "items": {"attributes": tfds.features.Tensor(shape=(5,), dtype=np.int64)},
    "users": {"wants": tfds.features.Tensor(shape=(None, 3), dtype=np.int64)},
  }

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing is downloaded
    return {self.builder_config.name: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    if self.builder_config.name == "items":
      for index in range(world.NUM_ITEMS):
        yield index, self._item(index)
      return
    for row, history in enumerate(self._histories()):
      # An item's id is its position in the items part.
      item_rows = np.asarray([int(item) for item in history.items], np.int64)
      record = records.user_record(history, item_rows)
      yield row, record | {"wants": self._wants(history)}

  def _item(self, index: int) -> dict[str, Any]:
    attributes = world.attributes(index)  # [5]
    png = io.BytesIO()  # as real images are: encoded, and without loss
    Image.fromarray(world.render(attributes)).save(png, "PNG")
    return {
      "id": _item_id(index),
      "title": world.title(attributes),
      "image": png.getvalue(),
      "attributes": attributes,
    }

  def _histories(self) -> list[histories.History]:
    """Returns all histories; the last `held_out` are never trained on."""
    users, events = self._simulated
    return histories.build(
      (
        (user, _item_id(item), int(timestamp))
        for user, items, timestamps in zip(
          users, events.items, events.timestamps, strict=True
        )
        for item, timestamp in zip(items, timestamps, strict=True)
      ),
      future_horizon=self.settings["future_horizon"],
      held_out=users[self.settings["num_users"] :],
    )

  def _wants(self, history: histories.History) -> np.ndarray:
    """Returns the user's wants at each event of a history: [L, 3] int64."""
    _, events = self._simulated
    row = int(history.user[1:])  # of 'u000012'
    # By item, as histories order events with equal timestamps anew.
    wants = dict(
      zip(events.items[row].tolist(), events.wants[row], strict=True)
    )
    return np.stack([wants[int(item)] for item in history.items])

  @functools.cached_property
  def _simulated(self) -> tuple[list[str], world_users.Events]:
    """Ids of the users, [U], and their events."""
    settings = self.settings
    # In one simulation: those held out are users like all others.
    number = settings["num_users"] + settings["held_out"]
    events = world_users.simulate(
      number, settings["num_events"], settings["seed"]
    )
    return [f"u{row:06d}" for row in range(number)], events


def _item_id(index: int) -> str:
  return f"{index:04d}"


def build(
  path: str | os.PathLike,
  *,
  num_users: int = 4096,
  held_out: int = 512,
  num_events: int = 24,
  future_horizon: int = 3,
  seed: int = 0,
) -> str:
  """Builds the synthetic data set unless `path` holds it; returns the path.

  Args:
    path: the folder to be.
    num_users: users to train on.
    held_out: further users, who are only evaluated on.
    num_events: items of each user, L.
    future_horizon: see `histories.split_points`.
    seed: of the simulation.
  """
  settings = {
    "num_users": num_users,
    "held_out": held_out,
    "num_events": num_events,
    "future_horizon": future_horizon,
    "seed": seed,
  }
  return prepare(Synthetic, path, settings)


def open_or_build(
  path: str | os.PathLike,
  *,
  cache: str | os.PathLike = "runs/data",
  **settings: int,
) -> dataset_lib.Dataset:
  """Opens the data set at `path`, or for "" the synthetic one of `settings`.

  Of several processes the first builds. The others build again only where they
  do not see its files: on disks of their own.

  Args:
    path: a prepared data set, or "".
    cache: where synthetic data sets are built, on first use, and found again,
      each in a folder named by the world's version and its settings.
    **settings: see `build`.
  """
  if path:
    return dataset_lib.load(path)
  # Other settings are another folder, so nothing stale is found.
  name = "_".join(f"{key}{value}" for key, value in sorted(settings.items()))
  folder = pathlib.Path(cache) / f"synthetic{world.VERSION}_{name}"
  if distributed.is_first():
    build(folder, **settings)
  distributed.barrier("the first process has built the data")
  return dataset_lib.load(build(folder, **settings))
