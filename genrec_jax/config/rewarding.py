"""Checks of `config.rewards`, before anything is opened."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from genrec_jax import rewards
from genrec_jax.config import judges
from genrec_jax.core.errors import UserError
from genrec_jax.hf.encoders import name_of
from genrec_jax.rewards import schedule

# In names of metrics and of parameters: the encoders that are always there.
_TAKEN = (rewards.CLIP, rewards.QUALITY, *rewards.NO_ENCODERS)


def problems(section: Mapping[str, Any], clip: str) -> list[str]:
  """Returns what is wrong with a config's `rewards`, a line each.

  Names on the hub are not looked up: that takes the network.

  Args:
    section: `rewards`.
    clip: `clip.checkpoint`.
  """
  sections = rewards.sections_of(section)
  found = [f"rewards.{problem}" for problem in rewards.problems(sections)]
  if "encoders" in section:
    found += _encoder_problems(section["encoders"], clip)
  if "schedule" in section:
    found += [
      f"rewards.{problem}"
      for problem in schedule.problems(section["schedule"], sections)
    ]
  quality = sections.get("quality", {})
  if quality.get("weight"):
    # There is no default: PickScore is 4 GB, and has to be chosen.
    if not quality["checkpoint"]:
      found.append(
        "rewards.quality.checkpoint is not set: expected a CLIP folder that"
        " people's choices trained, such as yuvalkirstain/PickScore_v1; or give"
        " --config.rewards.quality.weight=0"
      )
    else:
      found += judges.absent(
        "rewards.quality.checkpoint", quality["checkpoint"]
      )
  eyes = sections.get("eyes", {})
  if eyes.get("weight") and not str(eyes.get("question", "")).strip():
    found.append(
      "rewards.eyes.question is empty: expected what a title answers, such as"
      " 'Describe the image.'; or give --config.rewards.eyes.weight=0"
    )
  external = sections.get("external", {})
  if external.get("weight"):
    # Imported now: a wrong name would end the run after minutes of loading.
    try:
      rewards.load(external["function"])
    except UserError as error:
      found.append(f"rewards.external.function: {error}")
  return found


def folders(section: Mapping[str, Any]) -> dict[str, str]:
  """Returns the encoders besides CLIP that reward: {folder: its key}."""
  # Whichever key names a folder first is the one that messages name.
  found = dict.fromkeys(section.get("encoders", ()), "rewards.encoders")
  quality = section.get("quality", {})
  if quality.get("weight") and quality.get("checkpoint"):
    found[quality["checkpoint"]] = "rewards.quality.checkpoint"
  return found


def _encoder_problems(paths: Any, clip: str) -> list[str]:
  key = "rewards.encoders"
  if not judges.is_paths(paths):
    return [
      f"{key} is {paths!r}: expected a tuple of folders in HF format, such as"
      " ('DIR',), or () for CLIP alone"
    ]
  found = judges.absent(key, *paths)
  found += [
    f"{key}: {path} is clip.checkpoint, which rewards anyway; name another"
    " encoder, such as facebook/dinov2-base"
    for path in paths
    if judges.same_folder(path, clip)
  ]
  # Folders with the same last part would share metrics' names.
  names = Counter(map(name_of, paths))
  found += [
    f"{key}: {count} encoders are called {name!r}, and their metrics would be,"
    " too; rename the folders"
    for name, count in names.items()
    if count > 1
  ]
  found += [
    f"{key}: an encoder may not be called {name!r}; rename its folder"
    for name in names
    if name in ("", *_TAKEN)
  ]
  return found


def of_titles(values: Mapping[str, Any]) -> list[str]:
  """Returns which rewards need titles that the answers do not have, if any.

  Args:
    values: of a config, flat.
  """
  weighted = [
    f"rewards.{name}.weight"
    for name in rewards.OF_TITLES
    if values.get(f"rewards.{name}.weight")
  ]
  if not weighted or values.get("model.answer") == "title_image":
    return []
  return [
    f"{', '.join(weighted)} with model.answer={values.get('model.answer')!r}:"
    " expected 0, as answers have no title, or --config.model.answer="
    "title_image"
  ]


def of_users(values: Mapping[str, Any]) -> list[str]:
  """Returns why prompts of a file cannot be trained on, if so.

  Args:
    values: of a config with `data.prompts`, flat.
  """
  # What they compare with are users' items.
  weighted = [
    f"--config.rewards.{name}.weight=0"
    for name in ("history", "future", "copy")
    if values.get(f"rewards.{name}.weight")
  ]
  if not weighted:
    return []
  return [
    f"data.prompts is {values['data.prompts']!r}, without users and what they"
    f" saw: give {' '.join(weighted)}; text, quality, diversity and external"
    " are left"
  ]
