"""The encoded images of an import, in chunks, made by several processes."""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from PIL import Image
import tqdm

from genrec_jax.core import files
from genrec_jax.core.errors import UserError
from genrec_jax.data import images
from genrec_jax.ingest import image_files

CHUNK = 128  # images in a file of the store


class Store(Mapping[str, bytes]):
  """The encoded images of a folder that `encode_all` wrote, by item id.

  There may be millions, so what it knows of a chunk is read when needed.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = Path(folder)
    self._chunks = sorted(int(f.stem) for f in self._folder.glob("*.json"))
    # Enough for the way to an item, which leads over a few other chunks.
    self._index = functools.lru_cache(128)(self._read_index)

  @property
  def unusable(self) -> dict[str, tuple[str, str]]:
    """Returns reason and details by id of the images that are unusable."""
    return {
      item: tuple(place)
      for chunk in self._chunks
      for item, place in self._read_index(chunk).items()
      if _is_reason(place)
    }

  def __getitem__(self, item: str) -> bytes:
    """Reads the encoded image of an item."""
    after = bisect.bisect_right(
      self._chunks, item, key=lambda chunk: next(iter(self._index(chunk)))
    )
    chunk = self._chunks[after - 1] if after else None
    place = () if chunk is None else self._index(chunk).get(item, ())
    if not place or _is_reason(place):
      raise KeyError(item)
    start, length, *_ = place
    with open(_chunk(self._folder, chunk, "bin"), "rb") as file:
      file.seek(start)
      return file.read(length)

  def sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields id, and width and height as stored, of the usable images."""
    for chunk in self._chunks:
      for item, place in self._read_index(chunk).items():
        if not _is_reason(place):
          yield item, (place[2], place[3])

  def __iter__(self) -> Iterator[str]:
    """Yields the ids of the items that have a usable image."""
    return (item for item, _ in self.sizes())

  def __len__(self) -> int:
    """Returns the number of usable images."""
    return sum(1 for _ in self)

  def _read_index(self, chunk):
    """Returns start, length and size, or reason and details, by id."""
    rows = json.loads(_chunk(self._folder, chunk, "json").read_text())
    return {item: place for item, *place in rows}


def encode_all(
  root: str | os.PathLike,
  items: Sequence[tuple[str, str]],
  folder: str | os.PathLike,
  size: int,
  processes: int,
  spread: Callable[..., None] | None = None,
) -> Store:
  """Encodes items' images into a folder, over processes, with a progress bar.

  Chunks that are there already, of an earlier call with the same arguments that
  was stopped, are kept.

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
    initial=len(items) - sum(len(rows) for _, rows in missing),
    desc="images",
    unit="image",
    disable=None,  # shown on a terminal only
  ) as bar:
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
      with Image.open(io.BytesIO(image)) as header:
        index.append((item, data.tell(), len(image), *header.size))
      data.write(image)
  # The index says that the data are whole: it comes last.
  for suffix, content in (
    ("bin", data.getvalue()),
    ("json", json.dumps(index).encode()),
  ):
    target = _chunk(folder, number, suffix)
    files.write(target, content)
  return len(items)


def _results(work, chunks, processes) -> Iterable[int]:
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
    waiting = {pool.submit(work, chunk) for chunk in chunks}
    try:
      for future in concurrent.futures.as_completed(waiting):
        yield future.result()
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        "a process that encoded images died, perhaps for want of memory. Start "
        "again, to go on with the images that are left, with fewer processes."
      ) from None
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _follow_parent():
  """Lets a process end with the one that started it, and not before."""
  # Ctrl-C reaches every process of a terminal; the parent decides what ends.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent  # this is a process of the pool

  def wait():
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _is_reason(place):
  return isinstance(place[0], str)


def _chunk(folder, number, suffix) -> Path:
  return Path(folder, f"{number:06d}.{suffix}")
