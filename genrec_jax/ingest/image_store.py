"""The encoded images of an import, in chunks, by several processes."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import concurrent.futures.process
import functools
import io
import json
import multiprocessing
import os
from pathlib import Path
import signal
import threading
from typing import Any, NamedTuple

from PIL import Image
import tqdm

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.data import images
from genrec_jax.ingest import image_files

CHUNK = 128  # images in a file of the store


class _Place(NamedTuple):
  """Where an image is in the file of its chunk, and its size as stored."""

  start: int  # bytes
  length: int
  width: int  # pixels
  height: int


class Store(Mapping[str, bytes]):
  """The encoded images of a folder that `encode_all` wrote, by item id.

  A chunk is two files: NUMBER.bin, the images one after another, and
  NUMBER.json, a line of [id, start, length, width, height] for each, or of
  [id, reason, details] for one that is unusable. There may be millions of
  images, so the second file is read when needed.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = Path(folder)
    self._chunks = sorted(int(f.stem) for f in self._folder.glob("*.json"))
    # Enough for the bisection to an item, which leads over a few other chunks.
    self._index = functools.lru_cache(128)(self._read_index)

  @property
  def unusable(self) -> dict[str, tuple[str, str]]:
    """Returns reason and details by id of the images that are unusable."""
    return {
      item: entry
      for chunk in self._chunks
      for item, entry in self._read_index(chunk).items()
      if not isinstance(entry, _Place)
    }

  def __getitem__(self, item: str) -> bytes:
    """Reads the encoded image of an item."""
    # Items are in the order of ids, within chunks and from one to the next.
    after = bisect.bisect_right(
      self._chunks, item, key=lambda chunk: next(iter(self._index(chunk)))
    )
    if not after:  # sorts before all
      raise KeyError(item)
    chunk = self._chunks[after - 1]
    place = self._index(chunk).get(item)
    if not isinstance(place, _Place):
      raise KeyError(item)
    with open(_chunk(self._folder, chunk, "bin"), "rb") as file:
      file.seek(place.start)
      return file.read(place.length)

  def sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields id, and width and height as stored, of the usable images."""
    for chunk in self._chunks:
      for item, entry in self._read_index(chunk).items():
        if isinstance(entry, _Place):
          yield item, (entry.width, entry.height)

  def __iter__(self) -> Iterator[str]:
    """Yields the ids of the items that have a usable image."""
    return (item for item, _ in self.sizes())

  def __len__(self) -> int:
    """Returns the number of usable images."""
    return sum(1 for _ in self)

  def _read_index(self, chunk: int) -> dict[str, _Place | tuple[str, str]]:
    """Returns the place, or reason and details, of each item of a chunk."""
    lines = json.loads(_chunk(self._folder, chunk, "json").read_text())
    return {
      item: tuple(entry) if isinstance(entry[0], str) else _Place(*entry)
      for item, *entry in lines
    }


def encode_all(
  root: str | os.PathLike,
  items: Sequence[tuple[str, str]],
  folder: str | os.PathLike,
  size: int,
  processes: int,
  spread: Callable[..., None] | None = None,
) -> Store:
  """Encodes items' images into a folder, with several processes.

  Shows a progress bar. Chunks are kept that an earlier call with the same
  arguments, which was stopped, has written.

  Args:
    root: the images folder.
    items: (id, path below root), in the order of ids.
    folder: to write to.
    size: see `images.encode`.
    processes: at least 1.
    spread: runs (work, chunks, folder) elsewhere instead; see `beam.spread`.

  Returns:
    The store, which also knows which images are unusable.
  """
  Path(folder).mkdir(parents=True, exist_ok=True)
  chunks = [
    (number, items[start : start + CHUNK])
    for number, start in enumerate(range(0, len(items), CHUNK))
  ]
  missing = [
    chunk for chunk in chunks if not _chunk(folder, chunk[0], "json").exists()
  ]
  work = functools.partial(encode_chunk, root, folder, size)
  if spread:
    spread(work, missing, folder)
    return Store(folder)
  with tqdm.tqdm(
    total=len(items),
    initial=len(items) - sum(len(chunk_items) for _, chunk_items in missing),
    desc="images",
    unit="image",
    disable=None,  # shown on a terminal only
  ) as bar:
    # Chunks are done in any order; their numbers keep them apart.
    for done in _results(work, missing, processes):
      bar.update(done)
  return Store(folder)


def encode_chunk(
  root: str | os.PathLike,
  folder: str | os.PathLike,
  size: int,
  chunk: tuple[int, Sequence[tuple[str, str]]],
) -> int:
  """Encodes one chunk, (number, [(id, path)]), into `folder`; see `encode_all`.

  Returns:
    How many images it had.
  """
  number, items = chunk
  data, index = io.BytesIO(), []
  for item, path in items:
    try:
      image = image_files.encode_file(root, path, size)
    except images.Unusable as error:
      index.append((item, *error.args))
    else:
      # Opening reads the header only: the size as stored.
      with Image.open(io.BytesIO(image)) as header:
        index.append((item, data.tell(), len(image), *header.size))
      data.write(image)
  files.write(_chunk(folder, number, "bin"), data.getvalue())
  # Last: that it exists says that the chunk is whole.
  files.write(_chunk(folder, number, "json"), json.dumps(index))
  return len(items)


def _results(
  work: Callable[[Any], int], chunks: Sequence[Any], processes: int
) -> Iterator[int]:
  """Yields the results of `work` over chunks, as they come."""
  processes = min(processes, len(chunks))
  if processes <= 1:
    yield from map(work, chunks)
    return
  # Fresh processes: forking one that has threads may hang.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(
    processes, context, initializer=_follow_parent
  ) as pool:
    # All at once: a chunk is a list of ids and paths, which takes little.
    waiting = {pool.submit(work, chunk) for chunk in chunks}
    try:
      for future in concurrent.futures.as_completed(waiting):
        yield future.result()
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        "a process that encoded images died, perhaps for want of memory. Start "
        "again, to go on with the images that are left, with fewer processes."
      ) from None
    except (
      BaseException
    ):  # Ctrl-C, too: without it the pool works on to the end
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _follow_parent():
  """Ends this process of a pool with the one that started it, not before."""
  # Ctrl-C reaches every process of a terminal; the parent decides what ends.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent  # this is a process of the pool

  def wait():
    parent.join()  # returns when it ends, however it ends
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _chunk(folder: str | os.PathLike[str], number: int, suffix: str) -> Path:
  return Path(folder, f"{number:06d}.{suffix}")
