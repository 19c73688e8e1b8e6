"""The synthetic data set: items and users of a world whose truth is known."""

import functools
import io
import os
import pathlib
from typing import ClassVar

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import histories, records, tfds_writer, world
from genrec_jax.runtime import distributed


class Synthetic(tfds_writer.Prepared, tfds.core.GeneratorBasedBuilder):
  """Items and users of a small world whose truth is known."""

  EXTRA: ClassVar = {
    "items": {"attributes": tfds.features.Tensor(shape=(5,), dtype=np.int64)},
    "users": {"wants": tfds.features.Tensor(shape=(None, 3), dtype=np.int64)},
  }

  def _split_generators(self, dl_manager):
    del dl_manager
    return {self.builder_config.name: self._generate_examples()}

  def _generate_examples(self):
    if self.builder_config.name == "items":
      for index in range(world.NUM_ITEMS):
        yield index, self._item(index)
      return
    for row, history in enumerate(self._histories()):
      rows = np.asarray([int(item) for item in history.items], np.int64)
      yield (
        row,
        records.user_record(history, rows) | {"wants": self._wants(history)},
      )

  def _item(self, index):
    attributes = world.attributes(index)
    png = io.BytesIO()
    Image.fromarray(world.render(attributes)).save(png, "PNG")
    return {
      "id": _item_id(index),
      "title": world.title(attributes),
      "image": png.getvalue(),
      "attributes": attributes,
    }

  def _histories(self):
    """Simulates the users; the last `held_out` of them are never trained on."""
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

  def _wants(self, history):
    """Returns what the user wanted at each event, in the history's order."""
    _, events = self._simulated
    row = int(history.user[1:])
    wants = dict(
      zip(events.items[row].tolist(), events.wants[row], strict=True)
    )
    return np.stack([wants[int(item)] for item in history.items])

  @functools.cached_property
  def _simulated(self):
    settings = self.settings
    number = settings["num_users"] + settings["held_out"]
    events = world.simulate(number, settings["num_events"], settings["seed"])
    return [f"u{row:06d}" for row in range(number)], events


def _item_id(index) -> str:
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
  """Builds the synthetic data set unless `path` holds it; returns the path."""
  settings = {
    "num_users": num_users,
    "held_out": held_out,
    "num_events": num_events,
    "future_horizon": future_horizon,
    "seed": seed,
  }
  return tfds_writer.prepare(Synthetic, path, settings)


def open_or_build(
  path: str | os.PathLike, *, cache: str | os.PathLike = "runs/data", **settings
) -> dataset_lib.Dataset:
  """Opens the data set at `path`; for "" the synthetic one of `settings`.

  Of several processes the first builds; the others build only what they do not
  see then, each on a disk of its own.

  Args:
    path: a prepared data set, or "".
    cache: where synthetic data sets are built, on first use, and found again,
      each in a folder named by the world's version and its settings.
    **settings: see `build`.
  """
  if path:
    return dataset_lib.load(path)
  name = "_".join(f"{key}{value}" for key, value in sorted(settings.items()))
  folder = pathlib.Path(cache) / f"synthetic{world.VERSION}_{name}"
  if distributed.is_first():
    build(folder, **settings)
  distributed.barrier("the first process has built the data")
  return dataset_lib.load(build(folder, **settings))
