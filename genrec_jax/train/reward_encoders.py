"""Encoders besides CLIP that reward: opened, and what they read of a batch."""

from collections.abc import Mapping
import functools
from typing import Any

from genrec_jax import rewards
from genrec_jax.core.errors import UserError
from genrec_jax.data.examples import ReadTitles
from genrec_jax.evals.encoders import tokenize
from genrec_jax.hf.encoders import EncoderHandle, name_of, open_encoder
from genrec_jax.hf.processor import Processor
from genrec_jax.models.encoders import ImageEncoder
from genrec_jax.train.rl_options import Reading


def open_encoders(
  config_rewards: Mapping[str, Any] | None, *, dtype: str
) -> dict[str, EncoderHandle[Any]]:
  """Opens the encoders that a config's rewards read; no weight is read yet.

  Args:
    config_rewards: a config's `rewards`; None: a run without any.
    dtype: compute type.

  Returns:
    Those of `rewards.encoders` by name, and 'quality'; none of them that only
    rewards of weight 0 would read.

  Raises:
    UserError: one that cannot be used.
  """
  if config_rewards is None:
    return {}
  # By the name that metrics have, which checks hold to be unique.
  found = {
    name_of(path): open_encoder(path, dtype=dtype)
    for path in config_rewards["encoders"]
  }
  sections = rewards.sections_of(config_rewards)
  quality = sections.get(rewards.QUALITY, {})
  # Weight 0 opens nothing: the step has no trace of the encoder.
  if quality.get("weight"):
    found[rewards.QUALITY] = open_encoder(
      quality["checkpoint"], dtype=dtype, kind="clip"
    )
  # The same choice as in the step: what it does not read is not loaded.
  chosen = rewards.from_options(
    sections, reads_texts({name: one.model for name, one in found.items()})
  )
  read = {reward.encoder for reward in chosen.values()}
  return {name: handle for name, handle in found.items() if name in read}


def asks_host(config_rewards: Mapping[str, Any] | None) -> bool:
  """Returns whether a config's rewards ask a function on the host."""
  sections = rewards.sections_of(config_rewards or {})
  return bool(sections.get("external", {}).get("weight"))


def reads_texts(encoders: Mapping[str, ImageEncoder]) -> dict[str, bool]:
  """Returns which encoders read texts, for `rewards.from_options`.

  That of 'quality' is no second opinion on other rewards, and is left out.
  """
  return {
    name: encoder.text_positions > 0
    for name, encoder in encoders.items()
    if name != rewards.QUALITY
  }


def titles(
  handles: Mapping[str, EncoderHandle[Any]],
) -> dict[str, ReadTitles]:
  """Returns how each encoder that reads texts is given a title."""
  return {
    name: functools.partial(
      tokenize, handle.tokenizer, reads_padding=handle.model.reads_padding
    )
    for name, handle in handles.items()
    if handle.tokenizer is not None
  }


def open_reading(
  config_rewards: Mapping[str, Any] | None,
  processor: Processor,
  clip: EncoderHandle[Any],
) -> Reading | None:
  """Returns how written titles are read; None where no reward asks for it.

  Args:
    config_rewards: a config's `rewards`; None: a run without any.
    processor: of the generator, which writes them.
    clip: reads them.

  Raises:
    UserError: the model's own eyes are asked, and it does not answer.
  """
  sections = rewards.sections_of(config_rewards or {})
  # A run without such rewards calls no host function.
  weights = [sections.get(name, {}).get("weight") for name in rewards.OF_TITLES]
  if not any(weights):
    return None
  # Special tokens are no part of the title.
  decode = functools.partial(
    processor.tokenizer.decode, skip_special_tokens=True
  )
  # Another tokenizer than the generator's: titles go by their text.
  encode = functools.partial(
    tokenize, clip.tokenizer, reads_padding=clip.model.reads_padding
  )
  return Reading(
    rewards.Translator(decode, encode),
    _question(sections.get("eyes", {}), processor),
  )


def _question(
  eyes: Mapping[str, Any], processor: Processor
) -> rewards.Question | None:
  """Returns what the model's own eyes are asked; None: nothing.

  Raises:
    UserError: it was not made to answer.
  """
  # Not asked of a model that may have no answer, but writes titles.
  if not eyes.get("weight"):
    return None
  try:
    return rewards.Question.asked(processor, eyes["question"])
  except UserError as error:
    raise UserError(
      f"rewards.eyes.weight={eyes['weight']} asks the generator about its"
      f" images, but {error}; or give --config.rewards.eyes.weight=0"
    ) from None
