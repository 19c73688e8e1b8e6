"""Image processors of transformers: their settings as `Preprocessing`."""

from collections.abc import Mapping
import re
from typing import Any

from genrec_jax.models.pixels import RESAMPLE, Preprocessing

_OPENAI = {
  "image_mean": (0.48145466, 0.4578275, 0.40821073),
  "image_std": (0.26862954, 0.26130258, 0.27577711),
}
# What a folder leaves out is its class's: transformers 5.24. The names are
# those of image_processor_type without 'ImageProcessor', 'Fast' and 'Pil'.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  "Bit": {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    **_OPENAI,
  },
  "Siglip": {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
  },
}


def preprocessing(
  settings: Mapping[str, Any], kind: str
) -> tuple[Preprocessing | None, list[str]]:
  """Returns what an image processor does, and what of it is not done here.

  Args:
    settings: see `settings.image_settings`.
    kind: of `_DEFAULTS`; the class where the settings do not name one.

  Returns:
    The preprocessing, None if there are problems, and a line for each.
  """
  name = settings.get("image_processor_type")
  if name is not None:
    kind = re.sub(r"ImageProcessor(Fast|Pil)?$", "", name)
  if kind not in _DEFAULTS:
    names = " or ".join(f"{one}ImageProcessor" for one in _DEFAULTS)
    return None, [
      f"preprocessor: image_processor_type is {name!r}; expected {names}"
    ]
  given = {key: value for key, value in settings.items() if value is not None}
  whole = {"resample": 3, "rescale_factor": 1 / 255, **_DEFAULTS[kind], **given}
  problems = [
    f"preprocessor: {key} is false; expected true"
    for key in ("do_resize", "do_rescale", "do_normalize")
    if not whole.get(key, True)
  ]
  if whole["resample"] not in RESAMPLE:
    problems.append(
      f"preprocessor: resample is {whole['resample']}; expected 2, bilinear, or"
      " 3, bicubic"
    )
  # Files hold 1/255 rounded to different lengths.
  if abs(whole["rescale_factor"] - 1 / 255) > 1e-9:
    problems.append(
      f"preprocessor: rescale_factor is {whole['rescale_factor']}; expected"
      " 1/255"
    )
  resize, crop = _sizes(whole)
  if resize is None:
    problems.append(
      f"preprocessor: size is {whole['size']}; expected one number, a"
      " shortest_edge, or height and width"
    )
  elif crop is None:
    problems.append(
      f"preprocessor: size {whole['size']} and crop_size"
      f" {whole.get('crop_size')} do not give a square that the resized image"
      " fills; expected a crop_size no larger than size, or equal height and"
      " width"
    )
  if problems or resize is None or crop is None:
    return None, problems
  mean, std = tuple(whole["image_mean"]), tuple(whole["image_std"])
  method = RESAMPLE[whole["resample"]]
  return Preprocessing(resize, crop, mean, std, method), []


def _sizes(
  whole: Mapping[str, Any],
) -> tuple[int | tuple[int, int] | None, int | None]:
  """Returns what the image is resized to, and the side of the square of it."""
  resize = _size(whole["size"])
  if resize is None:
    return None, None
  edges = (resize, resize) if isinstance(resize, int) else resize
  if not whole["do_center_crop"]:
    # A shortest side alone leaves images of any proportions.
    square = not isinstance(resize, int) and edges[0] == edges[1]
    return resize, edges[0] if square else None
  crop = whole.get("crop_size")
  crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
  crop = _size(crop)
  if not isinstance(crop, tuple) or crop[0] != crop[1]:
    return resize, None
  # transformers fills what is smaller with zeros.
  return resize, crop[0] if crop[0] <= min(edges) else None


def _size(value: Any) -> int | tuple[int, int] | None:
  """Returns pixels of the shortest side, or (h, w); None: neither is meant."""
  # 224, {"shortest_edge": 224} or {"height": 224, "width": 224}, by version.
  if isinstance(value, Mapping):
    if set(value) == {"height", "width"}:
      return value["height"], value["width"]
    value = value["shortest_edge"] if set(value) == {"shortest_edge"} else None
  return value if isinstance(value, int) else None


def settings_of(pixels: Preprocessing, kind: str) -> dict[str, Any]:
  """Returns preprocessor_config.json of a preprocessing; see `preprocessing`.

  Raises:
    ValueError: transformers has no settings for it.
  """
  numbers = {method: number for number, method in RESAMPLE.items()}
  square = pixels.resize == (pixels.crop, pixels.crop)
  if not isinstance(pixels.resize, int) and not square:
    raise ValueError(f"no settings of transformers describe {pixels}")
  side = {"height": pixels.crop, "width": pixels.crop}
  return {
    "image_processor_type": f"{kind}ImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": side if square else {"shortest_edge": pixels.resize},
    "resample": numbers[pixels.method],
    "do_center_crop": not square,
    "crop_size": side,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(pixels.mean),
    "image_std": list(pixels.std),
  }
