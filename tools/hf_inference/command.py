"""Command line of tools/infer_hf.py."""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from . import (
  checkpoint,
  emu3,
  emu3_prompts,
  files,
  flags,
  images,
  items,
  prompts,
  sampling,
)


def main(argv: Sequence[str] | None = None, description: str = "") -> None:
  """Runs the command line; errors are one line and exit status 1."""
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  try:
    run(flags.parse(argv, description))
  except (OSError, ValueError, torch.OutOfMemoryError) as error:
    flags.fail(error)


def run(args: argparse.Namespace) -> None:
  """Does what the command line says.

  Raises:
    ValueError: says what does not fit; nothing has been written.
    OSError: the same, for files.
  """
  history = images.open_images(args.history)
  model, processor, options = load(args)
  of_image = args.mode != "text"
  of_emu3 = isinstance(processor, emu3.Processor)
  family: Any = emu3_prompts if of_emu3 else prompts
  prepare = family.image_prompt if of_image else family.question_prompt
  text = args.prompt or (prompts.INSTRUCTION if of_image else prompts.QUESTION)
  prompt = prepare(processor, args.titles, history, text)
  ids, pixels = prompt["input_ids"], prompt.get("pixel_values")
  check_length(args, model, processor, ids.shape[1])
  size = read_size(model, processor)
  none = np.zeros((0, 3, size, size), np.float32)  # --dump's without a history
  arrays = {
    "prompt_ids.npy": ids[0].int().numpy(),
    "pixel_values.npy": none if pixels is None else pixels.numpy(),
  }
  if of_image:
    out, more = generate(args, model, processor, prompt, options)
  else:
    options.pop("guidance")  # a question has no unconditional branch
    out, more = reply(args, model, processor, prompt, options)
  folders = {Path(args.out).resolve(): out}
  if args.dump:
    dump = Path(args.dump).resolve()
    folders[dump] = folders.get(dump, {}) | arrays | more
  files.save(folders)
  how = "greedy" if args.greedy else f"seed {args.seed}"
  how += "".join(f", {name} {value:g}" for name, value in options.items())
  print(
    f"prompt: {len(ids[0])} tokens, {len(history)} images, {text!r}\n"
    f"{args.model}, {args.dtype}: {how}\n"
    f"written: {', '.join(out)} in {args.out}"
  )


def load(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
  """Returns the model, its processor, and how to sample.

  Raises:
    ValueError: the model is not there or not whole.
  """
  try:
    folder = checkpoint.local_folder(args.model)
    options = sampling_settings(folder, args)
    model, processor = checkpoint.load(folder, args.dtype, args.device)
  except Exception as error:  # files can be wrong in very many ways
    raise ValueError(
      f"cannot load {args.model}: {error} (expected a whole Janus or Emu3"
      " checkpoint, a folder in HF format such as tools/export_hf.py makes of a"
      " run's folder, or a hub name)"
    ) from None
  return model, processor, options


def sampling_settings(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
  """Returns how to sample: of the flags, the checkpoint, or the defaults."""
  file, theirs = folder / "generation_config.json", {}
  # Those of a checkpoint are of images.
  if args.mode != "text" and file.exists():
    theirs = json.loads(file.read_text())
    theirs["guidance"] = theirs.get("guidance_scale")  # transformers' name
  return {
    name: checkpoint.first(getattr(args, name), theirs.get(name), value)
    for name, value in flags.DEFAULTS.items()
  }


def read_size(model: Any, processor: Any) -> int:
  """Returns the pixels per side of an image in a prompt."""
  if isinstance(processor, emu3.Processor):
    return processor.read_size
  return model.config.vision_config.image_size


def check_length(
  args: argparse.Namespace, model: Any, processor: Any, prompt: int
) -> None:
  """Refuses what the model's positions do not hold.

  Raises:
    ValueError: says how many images would fit.
  """
  count = len(args.history)
  if isinstance(processor, emu3.Processor):
    codes, per_image = processor.answer_tokens, processor.prompt_tokens
  else:
    codes = checkpoint.codes_per_image(model)
    per_image = codes + 2  # begin and end of image
  words = 0 if args.mode == "image" else args.max_tokens
  answer = words if args.mode == "text" else codes + words
  most = model.config.text_config.max_position_embeddings
  if prompt + answer <= most:
    return
  fit = (most - answer - prompt + count * per_image) // per_image
  advice = "shorten the prompt"
  if count:
    advice = f"give at most {fit} images" if fit > 0 else "give no images"
  if args.mode != "image":
    advice += ", or a smaller --max_tokens"
  raise ValueError(
    f"a prompt of {prompt} tokens ({count} images of {per_image}) and an"
    f" answer of up to {answer} do not fit the {most} positions of"
    f" {args.model}: {advice}"
  )


def generate(
  args: argparse.Namespace,
  model: Any,
  processor: Any,
  prompt: Any,
  options: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the files of generated images, and the arrays behind them."""
  pixels = prompt.get("pixel_values")
  ids = prompt["input_ids"]
  how = {"num": args.num, "seed": args.seed, "greedy": args.greedy} | options
  titles = None  # [num] lists of token ids
  own: dict[str, Any] = {}
  if isinstance(processor, emu3.Processor):
    own = {"processor": processor}
  if args.mode == "item":
    write = emu3.sample_items if own else items.sample_items
    titles, codes = write(
      model, ids, pixels, max_tokens=args.max_tokens, **own, **how
    )
  else:
    draw = emu3.sample_codes if own else sampling.sample_codes
    codes = draw(model, ids, pixels, **own, **how)  # [num, I]
  show = emu3.decode_images if own else sampling.decode_images
  generated = show(model, codes, **own)
  out = {f"{i}.png": image for i, image in enumerate(generated)}
  rows = []
  if pixels is not None:
    # As the model got them, in [-1, 1].
    rows.append(sampling.to_uint8(pixels.permute(0, 2, 3, 1)))
  out["sheet.png"] = files.contact_sheet([*rows, generated])
  arrays = {
    "codes.npy": codes.cpu().int().numpy(),
    "images.npy": generated,
  }
  if titles is not None:
    ids = np.full((len(titles), args.max_tokens), -1, np.int32)
    for row, words in zip(ids, titles, strict=True):
      row[: len(words)] = words
    arrays["title_ids.npy"] = ids
    lines = [
      processor.decode(words, skip_special_tokens=True).strip()
      for words in titles
    ]
    out["titles.txt"] = "".join(f"{line}\n" for line in lines)
    print(out["titles.txt"], end="")
  return out, arrays


def reply(
  args: argparse.Namespace,
  model: Any,
  processor: Any,
  prompt: Any,
  options: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Prints an answer in words; returns its file and the array behind it."""
  torch.manual_seed(args.seed)
  family: Any = sampling
  own: dict[str, Any] = {}
  if isinstance(processor, emu3.Processor):
    family, own = emu3, {"processor": processor}
  tokens = family.answer(
    model,
    prompt,
    **own,
    max_new_tokens=args.max_tokens,
    do_sample=not args.greedy,
    # transformers warns of settings that greedy search does not look at.
    **({} if args.greedy else options),
  )
  words = processor.decode(tokens, skip_special_tokens=True).strip()
  print(words or "(the model ended its turn without a word)")
  arrays = {"answer_ids.npy": tokens.cpu().int().numpy()}
  return {"answer.txt": words + "\n"}, arrays
