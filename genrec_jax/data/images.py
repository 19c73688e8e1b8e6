"""Item images: listed, checked, brought to one form, stored once per item.

The rule, which `encode` keeps and docs/data.md tells: the first frame; turned
as EXIF says; alpha laid over white; grey, palette, CMYK and the like converted
as Pillow does, without colour profiles; 16-bit grey scaled to 8 bits; shrunk,
never enlarged, so that the shorter side is at most `size` and the longer one at
most `LONGEST` times that, bicubic with antialiasing; stored as JPEG, quality
95, without chroma subsampling. So the centre square, which is what is drawn and
compared, keeps `size` pixels a side.

Nothing but regular files below the images folder is opened: paths come from
listing that folder, never from ids or columns, and links are not followed.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import io
import json
import multiprocessing
import os
from pathlib import Path
import signal
import stat
import threading
from typing import BinaryIO, NamedTuple
import warnings

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin
import tqdm

from genrec_jax.core.errors import UserError

MAX_PIXELS = 89_478_485  # what Pillow warns of; decoded, 256 MiB
MIN_SIDE = 4  # shops answer with a picture of one pixel where they have none
LONGEST = 4  # sides of a stored image; of longer ones the centre is small
RULE = "shorter side"  # changes when what is stored of an image does
CHUNK = 128  # images in a file of the store
# Shares of an image that the crop to its centre square takes, as `crop_losses`
# counts them.
_LOSSES = (0.1, 0.25, 0.5, 1.0)
_QUALITY = 95
# What can be decoded. Pillow knows more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Text and colour profiles are not needed, but Pillow refuses an image for more
# than 1 MB in one of them; what all may take, 64 MB, stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_ORIENTATIONS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Why an image cannot be used, as the report counts them.
REASONS = (
  "empty_file",
  "not_an_image",
  "truncated",
  "damaged",
  "too_large",
  "too_small",
  "unsupported_mode",
  "unreadable_file",
)


class Unusable(Exception):
  """An image that cannot be used; `args` are one of `REASONS` and details."""

  def __str__(self) -> str:
    """Returns both, for a message."""
    return ": ".join(self.args)


class File(NamedTuple):
  """What a listing found."""

  path: str  # below the folder, with '/'
  problem: str  # '' for a regular file, else why it is not opened
  size: int = 0  # bytes
  modified: int = 0  # nanoseconds


def listing(root: str | os.PathLike) -> Iterator[File]:
  """Yields everything below a folder that is no folder, sorted by path.

  Links, also to folders, are not followed.
  """
  root = os.fspath(root)
  try:
    with os.scandir(root) as found:
      entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
  except OSError:
    yield File(".", "unreadable_folder")
    return
  for entry in entries:
    if not _is_text(entry.name):
      yield File(
        os.fsencode(entry.name).decode(errors="replace"), "bad_file_name"
      )
    elif entry.is_symlink():
      yield File(entry.name, "symbolic_link")
    elif entry.is_dir():
      for file in listing(entry.path):
        yield file._replace(path=f"{entry.name}/{file.path}")
    elif entry.is_file():
      status = entry.stat()
      yield File(entry.name, "", status.st_size, status.st_mtime_ns)
    else:
      yield File(entry.name, "not_a_regular_file")


def upright(image: Image.Image) -> Image.Image:
  """Returns an opened image turned as its EXIF says and in RGB.

  The one rule by which images become pixels, in the import, in training and in
  tools/generate.py; tools/infer_hf.py has it in its own lines. See the module.

  Raises:
    Unusable: its values are floating-point, of which no scale is known.
  """
  return _turned(_rgb(image), image)


def encode(file: BinaryIO, size: int) -> bytes:
  """Decodes a picture and returns it as it is stored; see the module.

  Args:
    file: open, seekable.
    size: of the shorter side in pixels, at most.

  Returns:
    A JPEG of RGB.

  Raises:
    Unusable: it is no picture that can be used; says why.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # what is wrong is raised or harmless
      with Image.open(file, formats=_formats()) as image:
        return _jpeg(_shrink(image, size))
  except Unusable:
    raise
  except Image.DecompressionBombError as error:
    raise Unusable("too_large", str(error)) from error
  except Image.UnidentifiedImageError as error:
    if not file.seek(0, os.SEEK_END):
      raise Unusable("empty_file", "0 bytes") from error
    raise Unusable("not_an_image", "in no format that is read") from error
  except MemoryError as error:
    raise Unusable("too_large", "not enough memory") from error
  except Exception as error:  # Pillow's formats raise many kinds
    reason = "truncated" if "truncated" in str(error).lower() else "damaged"
    raise Unusable(reason, str(error) or type(error).__name__) from error


def encode_file(root: str | os.PathLike, path: str, size: int) -> bytes:
  """Encodes a file that `listing` found below `root`; see `encode`.

  Raises:
    Unusable: also if the file is no longer a regular file, or unreadable.
  """
  try:
    with _open_regular(root, path) as file:
      return encode(file, size)
  except OSError as error:
    raise Unusable("unreadable_file", error.strerror or str(error)) from error


def pixels(root: str | os.PathLike, path: str) -> int:
  """Returns how many pixels a file that `listing` found says it has.

  0 if it is no image, or one of a size that `encode` refuses. Nothing is
  decoded.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      with (
        _open_regular(root, path) as file,
        Image.open(file, formats=_formats()) as image,
      ):
        width, height = image.size
  except Exception:  # Pillow's formats raise many kinds
    return 0
  usable = min(width, height) >= MIN_SIDE and width * height <= MAX_PIXELS
  return width * height if usable else 0


@contextlib.contextmanager
def _open_regular(root, path):
  """Opens a file below a folder, if it is a regular file still."""
  # Non-blocking: what was a file may have become a pipe.
  flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
  with open(os.open(os.path.join(root, path), flags), "rb") as file:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
      raise Unusable("unreadable_file", "no regular file")
    yield file


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


def _is_reason(place):
  return isinstance(place[0], str)


def crop_losses(
  sizes: Iterable[tuple[int, int]],
) -> dict[str, int | float | dict[str, int]]:
  """Counts what images of some widths and heights lose to their centre square.

  Returns:
    'images' and 'cropped', their numbers; 'mean_share', of all images, the mean
    share of pixels that are lost; 'shares', of those that are cropped, how many
    lose up to a tenth, a quarter, half and more.
  """
  lost = np.asarray([1 - min(size) / max(size) for size in sizes], np.float64)
  places = np.digitize(lost[lost > 0], _LOSSES[:-1], right=True)
  counts = np.bincount(places, minlength=len(_LOSSES)).tolist()
  return {
    "images": len(lost),
    "cropped": int((lost > 0).sum()),
    "mean_share": float(lost.mean()) if len(lost) else 0.0,
    "shares": {
      f"up to {share:.0%}": number
      for share, number in zip(_LOSSES, counts, strict=True)
    },
  }


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
    size: see `encode`.
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
      image = encode_file(root, path, size)
    except Unusable as error:
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
    partial = target.with_suffix(f".{suffix}.tmp")
    partial.write_bytes(content)
    os.replace(partial, target)
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
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def wait():
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


@functools.cache
def _formats():
  """Returns those of the formats that this Pillow was built with."""
  Image.init()
  return tuple(name for name in _FORMATS if name in Image.OPEN)


def _shrink(image, size):
  """Returns an opened image upright, in RGB and small."""
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise Unusable("too_large", f"{width} x {height} pixels")
  if min(width, height) < MIN_SIDE:
    raise Unusable("too_small", f"{width} x {height} pixels")
  scale = min(size / min(width, height), LONGEST * size / max(width, height), 1)
  fitted = tuple(max(round(side * scale), 1) for side in (width, height))
  # JPEG can be decoded at half the size and less; twice the aim loses nothing
  # that the eye sees.
  image.draft(None, tuple(2 * side for side in fitted))
  small = _rgb(image)
  if small.size != fitted:
    # Halving boxes first, far above the aim, is as good and faster.
    small = small.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=3.0)
  return _turned(small, image)


def _turned(image, opened):
  """Returns an image turned as the EXIF of what was opened says."""
  try:
    orientation = opened.getexif().get(ExifTags.Base.Orientation)
  except Exception:  # damaged, but the image need not be
    return image
  turn = _ORIENTATIONS.get(orientation)
  return image if turn is None else image.transpose(turn)


def _rgb(image):
  """Converts any mode to RGB; see the module."""
  mode, key = image.mode, image.info.get("transparency")
  # Before it is loaded an image knows how its file stores the values.
  stored = image.tile[0][3] if getattr(image, "tile", None) else ""
  if mode == "F":
    raise Unusable("unsupported_mode", "floating-point values")
  if mode == "I" or mode.startswith("I;16"):
    values = np.asarray(image.convert("I"))
    image = Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    if key is not None:
      image = image.convert("LA")
      alpha = np.where(values == key, 0, 255).astype(np.uint8)
      image.putalpha(Image.fromarray(alpha))
  # Pillow scales these values when it reads them, but not their key colour.
  elif key is not None and stored in ("L;2", "L;4"):
    image.info["transparency"] = key * (85 if stored == "L;2" else 17)
  elif key is not None and stored == "RGB;16B":
    image.info["transparency"] = tuple(value >> 8 for value in key)
  if image.mode == "La":  # premultiplied, which converts to LA only
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
  image = image.convert("RGB")
  image.info = {}  # its orientation, too: it must not be turned again
  return image


def _is_text(name):
  """Says whether a file name is UTF-8, as ids are."""
  return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _jpeg(image):
  data = io.BytesIO()
  image.save(data, "JPEG", quality=_QUALITY, subsampling=0)
  return data.getvalue()


def _chunk(folder, number, suffix) -> Path:
  return Path(folder, f"{number:06d}.{suffix}")
