"""Compares two rules by which an image tokenizer makes codes of images.

    python tools/check_tokenizer.py --model=DIR --clip=DIR --images=DIR
        [--num=64]

Codes are the codebook vectors nearest to an image's latents: by direction, as
in DeepSeek's tokenizer and in this project, or by distance, as in transformers.
Where all vectors of the codebook have one length the two are the same. Where
they have not, the codes of one rule are not those that the checkpoint was
trained with, and give worse images. Prints, for both, how well images of a
folder come back, and how many of their codes differ.

--model and --clip are folders in Hugging Face format, workdirs or the names of
bundled models, as everywhere.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from absl import flags

from genrec_jax.core.errors import UserError
from genrec_jax.runtime import cli

RULES = {
  "by direction (DeepSeek, here)": True,
  "by distance (transformers)": False,
}
_BATCH = 8  # images at a time: few enough for any device

_MODEL = flags.DEFINE_string(
  "model", None, "A generator; its image tokenizer is read.", required=True
)
_CLIP = flags.DEFINE_string("clip", None, "A CLIP model.", required=True)
_IMAGES = flags.DEFINE_string(
  "images", None, "A folder of images, with folders in it.", required=True
)
_NUM = flags.DEFINE_integer(
  "num", 64, "Images, evenly spread over the folder, at most.", lower_bound=1
)


def main() -> None:
  """Prints the table."""
  paths = find(_IMAGES.value, _NUM.value)
  # JAX takes seconds to import: bad flags are reported sooner.
  import jax
  import numpy as np

  from genrec_jax.hf import load
  from genrec_jax.hf.processor import open_image

  opened = load.open_generator(_MODEL.value, dtype="float32")
  clip, clip_params, _ = load.load_clip(_CLIP.value, dtype="float32")
  pixels, unread = [], 0
  for path in paths:
    try:
      pixels.append(opened.processor.crop(open_image(path)))
    except UserError:
      unread += 1
  if not pixels:
    raise UserError(
      f"none of {len(paths)} files of {_IMAGES.value} can be read as an image:"
      " expected PNG, JPEG or another format that Pillow opens"
    )
  # Of a generator of gigabytes the tokenizer alone is read.
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  layout = jax.tree.map(lambda _: place, opened.shapes["tokenizer"])
  params = opened.read({"tokenizer": layout})
  compiled = jax.jit(functools.partial(compare, opened.model, clip))
  parts = []
  for start in range(0, len(pixels), _BATCH):
    batch = np.stack(pixels[start : start + _BATCH])
    whole = np.resize(batch, (_BATCH, *batch.shape[1:]))  # compiled once
    parts.append(compiled(params, clip_params, whole))
  count = len(pixels)  # the last batch was filled by repeating images
  scores = jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)
  report(opened, scores, unread)


def find(folder: str, number: int) -> list[Path]:
  """Returns files of a folder, evenly spread over all of them.

  Raises:
    UserError: there are none.
  """
  from genrec_jax.ingest import image_files

  files = [
    file.path for file in image_files.listing(folder) if not file.problem
  ]
  if not files:
    raise UserError(f"no files in {folder}: expected a folder of images")
  number = min(number, len(files))
  return [Path(folder, files[i * len(files) // number]) for i in range(number)]


def compare(
  model: Any, clip: Any, params: Any, clip_params: Any, images: Any
) -> dict[str, Any]:
  """Encodes and decodes images by both rules.

  Args:
    model: the generator.
    clip: the CLIP model.
    params: of the generator, 'tokenizer' at least.
    clip_params: of `clip`.
    images: uint8 [B, h, w, 3].

  Returns:
    {rule: (codes [B, I], PSNR [B] in dB, CLIP cosine [B])}.
  """
  import jax.numpy as jnp

  real = images.astype(jnp.float32) / 255
  embeds = clip.embed_images(clip_params, real)  # [B, E]
  scores = {}
  for rule, l2_norm in RULES.items():
    tokenizer = dataclasses.replace(model.tokenizer, l2_norm=l2_norm)
    ruled = dataclasses.replace(model, tokenizer=tokenizer)
    codes = ruled.encode_pixels(params, real)  # [B, I]
    again = ruled.decode_pixels(params, codes)  # [B, h, w, 3]
    error = jnp.mean((again - real) ** 2, (1, 2, 3))  # [B], of values in [0, 1]
    cosine = jnp.sum(clip.embed_images(clip_params, again) * embeds, -1)
    scores[rule] = codes, -10 * jnp.log10(error), cosine
  return scores


def report(opened: Any, scores: dict[str, Any], unread: int) -> None:
  """Prints the table.

  Args:
    opened: the generator.
    scores: of all images, as of `compare`.
    unread: files that are no images.
  """
  first, second = (codes for codes, _, _ in scores.values())
  skipped = f", {unread} more could not be read" if unread else ""
  print(f"{len(first)} images of {_IMAGES.value}{skipped}")
  from genrec_jax.hf import janus

  print(janus.codebook_lengths(opened.stored)[0])
  print(f"{'codes are the nearest':<32}{'PSNR':>10}{'CLIP cosine':>14}")
  for rule, (_, psnr, cosine) in scores.items():
    print(f"{rule:<32}{psnr.mean():>7.2f} dB{cosine.mean():>14.4f}")
  print(f"codes that differ: {(first != second).mean():.2%}")


if __name__ == "__main__":
  cli.run(main)
