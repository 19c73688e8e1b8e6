"""Apache Beam, optional: the item images of an import on many machines.

Two steps run on it: `image_store.encode_all` makes the chunks of the store, and
TFDS writes the shards of items. The machines need the raw images, the work
folder and the prepared data set under the same names.
"""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import shlex
from typing import Any

from genrec_jax.core.errors import UserError


def parse(flags: str) -> dict[str, Any]:
  """Returns `beam_runner` and `beam_options`, as TFDS names them.

  Args:
    flags: Beam's own, such as '--runner=DataflowRunner --project=...'; with no
      runner among them, the direct one, on this machine.

  Raises:
    UserError: Beam is not installed, or has no such runner.
  """
  try:
    # Imported here: most users have no Beam, and it takes seconds.
    from apache_beam import runners
    from apache_beam.options import pipeline_options
  except ImportError:
    raise UserError(
      "Apache Beam is not installed: expected the package apache-beam. Install "
      "it, or prepare the data without Beam."
    ) from None
  try:
    options = pipeline_options.PipelineOptions(shlex.split(flags))
    runner = options.view_as(pipeline_options.StandardOptions).runner
    runner = runner or "DirectRunner"
    runners.create_runner(runner)  # raises, if there is no such runner
  except (ValueError, ImportError) as error:
    raise UserError(
      f"--beam={flags!r}: {str(error).rstrip('.')}. Expected flags of Apache "
      "Beam, such as '--runner=DirectRunner'."
    ) from None
  return {"beam_runner": runner, "beam_options": options}


def spread(
  work: Callable[[Any], Any],
  chunks: Sequence[Any],
  folder: str | os.PathLike,
  *,
  beam_runner: Any,
  beam_options: Any,
) -> None:
  """Calls a function for each chunk, as `image_store.encode_all` asks.

  Args:
    work: of one chunk; can be pickled.
    chunks: JSON.
    folder: for a list of the chunks, which may be too long for Beam to send.
    beam_runner: see `parse`.
    beam_options: see `parse`.
  """
  import apache_beam

  path = pathlib.Path(folder, "chunks.jsonl")
  offsets = []  # bytes, where each chunk's line begins
  with path.open("wb") as file:
    for chunk in chunks:
      offsets.append(file.tell())
      file.write(json.dumps(chunk).encode() + b"\n")
  with apache_beam.Pipeline(runner=beam_runner, options=beam_options) as beam:
    _ = (
      beam
      | apache_beam.Create(offsets)
      # Runners fuse steps: without a shuffle one worker would do all chunks.
      | apache_beam.Reshuffle()
      | apache_beam.Map(_at, os.fspath(path), work)
    )
  path.unlink()


def _at(offset, path, work):
  """Does the work of the chunk whose line begins at an offset of a file."""
  with open(path, "rb") as file:
    file.seek(offset)
    chunk = json.loads(file.readline())
  work(chunk)
